//! Torn, flipped, interrupted and foreign checkpoints.

use super::*;
use loar_tape::ParamRole;

fn params(shift: f32) -> ParamStore {
    let mut store = ParamStore::default();
    for (name, rows, cols) in [("a.lora_A", 2, 3), ("a.lora_B", 3, 2), ("b.lora_A", 1, 5)] {
        let data = (0..rows * cols).map(|i| shift + i as f32 * 0.1).collect();
        store.add(name.into(), ParamRole::LoraA, Tensor::new(rows, cols, data), None);
    }
    store
}

fn moments(params: &ParamStore, step: u64) -> AdamWState {
    let part = |f: f32| {
        params
            .iter()
            .map(|(_, p)| Tensor::new(p.value.rows, p.value.cols, p.value.data.iter().map(|x| x * f).collect()))
            .collect()
    };
    AdamWState { step, first: part(0.5), second: part(0.25) }
}

fn state(step: u64, best: Option<u64>) -> State {
    State {
        step,
        micro_step: step * 4,
        cursor: step * 16,
        adamw_step: step,
        best: best.map(|step| Best { step, value: 1.5 }),
        evals_since_best: 0,
        finished: false,
        tokens: 100,
        labels: 10,
        expert_load: vec![vec![], vec![1, 2]],
        gradients: Some(vec![("o".into(), 2)]),
        offsets: Offsets { metrics: 3, timing: 4, tensorboard: 5 },
        seconds: 0.125,
        training_id: ContentId::of_bytes(b"t"),
        base_id: ContentId::of_bytes(b"b"),
        rows_id: ContentId::of_bytes(b"r"),
    }
}

fn save(c: &Checkpoints, step: u64, best: Option<u64>) {
    let p = params(step as f32);
    c.save(&state(step, best), &p, &moments(&p, step)).unwrap();
}

fn assert_loads(c: &Checkpoints, step: u64) {
    let mut p = params(-1.0);
    let mut m = moments(&p, 0);
    let loaded = c.load(step, &mut p, Some(&mut m)).unwrap();
    let expected = params(step as f32);
    assert_eq!(loaded.step, step);
    assert_eq!(m, moments(&expected, step));
    for ((_, a), (_, b)) in p.iter().zip(expected.iter()) {
        assert_eq!(a.value, b.value);
    }
}

#[test]
fn what_is_saved_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let c = Checkpoints::new(dir.path(), 3);
    save(&c, 7, Some(7));
    assert_eq!(c.newest(), (Some(state(7, Some(7))), vec![]));
    assert_loads(&c, 7);
}

#[test]
fn the_newest_and_every_best_they_name_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let c = Checkpoints::new(dir.path(), 2);
    for (step, best) in [(1, Some(1)), (2, Some(1)), (3, Some(1)), (4, Some(4)), (5, Some(4))] {
        save(&c, step, best);
    }
    assert_eq!(c.steps(), [4, 5]);
    save(&c, 6, Some(6));
    assert_eq!(c.steps(), [4, 5, 6], "5 still names 4");
    save(&c, 7, Some(6));
    assert_eq!(c.steps(), [6, 7]);
}

#[test]
fn every_cut_and_every_flip_is_found_and_the_one_before_is_taken() {
    let dir = tempfile::tempdir().unwrap();
    let c = Checkpoints::new(dir.path(), 3);
    save(&c, 1, None);
    save(&c, 2, None);
    let path = c.path(2).join(FILE);
    let whole = fs::read(&path).unwrap();
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).step_by(7).map(|n| whole[..n].to_vec()).collect();
    for at in (0..whole.len()).step_by(3) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        damaged.push(bytes);
    }
    damaged.push([whole.as_slice(), b"x"].concat());
    for bytes in damaged {
        fs::write(&path, &bytes).unwrap();
        assert!(decode(&bytes).is_err());
        let (found, faults) = c.newest();
        assert_eq!(found.map(|s| s.step), Some(1));
        assert!(faults.len() == 1 && faults[0].contains("000002"), "{faults:?}");
    }
    assert_loads(&c, 1);
    // the run reaches step 2 again and replaces the damaged one
    save(&c, 2, None);
    assert_eq!(c.newest().0.map(|s| s.step), Some(2));
}

#[test]
fn an_error_in_any_phase_of_writing_leaves_a_whole_newest() {
    for phase in Phase::ALL {
        let dir = tempfile::tempdir().unwrap();
        let c = Checkpoints::new(dir.path(), 2);
        save(&c, 1, None);
        save(&c, 2, None);
        let p = params(3.0);
        let mut hit = false;
        let result = c.save_with(&state(3, None), &p, &moments(&p, 3), &mut |at| {
            if at == phase {
                hit = true;
                return Err(io::Error::new(io::ErrorKind::StorageFull, "injected"));
            }
            Ok(())
        });
        assert!(hit && result.is_err(), "{phase:?}");
        let (found, faults) = c.newest();
        let step = found.unwrap().step;
        assert_eq!(step, if matches!(phase, Phase::Renamed | Phase::Prune) { 3 } else { 2 }, "{phase:?}");
        assert!(faults.is_empty(), "{phase:?}: {faults:?}");
        assert_loads(&c, step);
        assert_loads(&c, 2);
        let left = fs::read_dir(dir.path().join("checkpoints"))
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().contains("tmp"))
            .count();
        assert_eq!(left, 0, "{phase:?}");
    }
}

#[test]
fn a_crash_in_any_phase_of_writing_leaves_a_whole_newest() {
    for phase in Phase::ALL {
        let dir = tempfile::tempdir().unwrap();
        let c = Checkpoints::new(dir.path(), 2);
        save(&c, 1, None);
        save(&c, 2, None);
        let p = params(3.0);
        // unwinding skips the clean-up of errors, as a kill does
        let crashed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            c.save_with(&state(3, None), &p, &moments(&p, 3), &mut |at| {
                if at == phase { panic!("crash") } else { Ok(()) }
            })
            .is_ok()
        }));
        assert!(crashed.is_err(), "{phase:?}");
        let step = c.newest().0.unwrap().step;
        assert_eq!(step, if matches!(phase, Phase::Renamed | Phase::Prune) { 3 } else { 2 }, "{phase:?}");
        assert_loads(&c, step);
        c.clean();
        save(&c, 3, None);
        save(&c, 4, None);
        assert_eq!(c.steps(), [3, 4], "{phase:?}");
    }
}

#[test]
fn another_model_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let c = Checkpoints::new(dir.path(), 3);
    save(&c, 1, None);
    let mut other = ParamStore::default();
    other.add("a.lora_A".into(), ParamRole::LoraA, Tensor::zeros(4, 3), None);
    let message = c.load(1, &mut other, None).unwrap_err().to_string();
    assert!(message.contains("`a.lora_A` [2, 3], the model has `a.lora_A` [4, 3]"), "{message}");
}
