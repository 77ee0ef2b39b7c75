//! Files whole or absent, ids that follow content, manifests that find every change.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use loar_artifact::{
    ArtifactError, ContentId, Fault, IdHasher, MANIFEST_NAME, Manifest, Parent, rfc3339, write_atomic,
    write_atomic_with,
};
use serde_json::json;

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_write_replaces_and_creates_parents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/file.txt");
    write_atomic(&path, b"one").unwrap();
    write_atomic(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(&dir.path().join("a/b")), ["file.txt"]);
    write_atomic_with(&path, |out| (0..100_000u32).try_for_each(|i| out.write_all(&i.to_le_bytes()))).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), 400_000);
}

#[cfg(unix)]
#[test]
fn a_written_file_has_the_mode_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    write_atomic(&dir.path().join("ours"), b"x").unwrap();
    fs::write(dir.path().join("theirs"), b"x").unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("ours"), mode("theirs"));
}

#[test]
fn a_failing_writer_replaces_nothing_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.bin");
    write_atomic(&path, b"the good one").unwrap();
    let error = write_atomic_with(&path, |out| {
        out.write_all(&vec![1; 3 << 20])?; // beyond the buffer: part of it is on disk by now
        Err(io::Error::other("the source broke"))
    })
    .unwrap_err();
    assert!(matches!(error, ArtifactError::Write { .. }));
    let text = error.to_string();
    assert!(text.contains("the source broke") && text.contains("previous file is preserved"), "{text}");
    assert_eq!(fs::read(&path).unwrap(), b"the good one");
    assert_eq!(names(dir.path()), ["state.bin"]);
}

#[test]
fn a_full_disk_says_what_is_preserved() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.bin");
    let full = |out: &mut dyn Write| {
        out.write_all(b"half")?;
        Err(io::Error::from(io::ErrorKind::StorageFull))
    };
    let text = write_atomic_with(&path, full).unwrap_err().to_string();
    assert!(text.contains("no space left") && text.contains("no partial file is left"), "{text}");
    assert!(names(dir.path()).is_empty());
    write_atomic(&path, b"old").unwrap();
    let error = write_atomic_with(&path, full).unwrap_err();
    assert!(matches!(error, ArtifactError::NoSpace { .. }));
    assert!(error.to_string().contains("previous file is preserved unchanged"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

#[test]
fn a_panicking_writer_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.bin");
    write_atomic(&path, b"old").unwrap();
    let caught = std::panic::catch_unwind(|| {
        let _ = write_atomic_with(&path, |out| {
            out.write_all(b"new")?;
            panic!("as a bug in the caller would");
        });
    });
    assert!(caught.is_err());
    assert_eq!(fs::read(&path).unwrap(), b"old");
    assert_eq!(names(dir.path()), ["state.bin"]);
}

#[test]
fn a_path_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"x").unwrap();
    assert!(write_atomic(&dir.path().join("file/below"), b"x").is_err());
    assert!(write_atomic(Path::new("/"), b"x").is_err());
    fs::create_dir(dir.path().join("folder")).unwrap();
    assert!(write_atomic(&dir.path().join("folder"), b"x").is_err());
    assert_eq!(names(dir.path()), ["file", "folder"]);
}

#[test]
fn ids_are_sha_256_of_the_content() {
    // FIPS 180-4 example
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let id = ContentId::of_bytes(b"abc");
    assert_eq!(id.to_string(), abc);
    assert_eq!(ContentId::parse(abc), Some(id));
    assert_eq!(ContentId::parse(&abc.replace("ba78", "BA78")), Some(id));
    for wrong in ["", "sha256:", &abc[7..], &abc[..70], &format!("{abc}0"), &abc.replace('b', "g")] {
        assert_eq!(ContentId::parse(wrong), None, "{wrong}");
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x");
    let content: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    fs::write(&path, &content).unwrap();
    assert_eq!(ContentId::of_file(&path).unwrap(), ContentId::of_bytes(&content));
    let mut hasher = IdHasher::new();
    content.chunks(777).for_each(|c| hasher.update(c));
    assert_eq!(hasher.finish(), ContentId::of_bytes(&content));
    assert_eq!(serde_json::to_value(id).unwrap(), abc);
    assert!(serde_json::from_value::<ContentId>(json!("sha256:12")).is_err());
}

#[test]
fn the_id_of_a_folder_follows_names_and_content_only() {
    let make = |files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        ContentId::of_dir(dir.path()).unwrap()
    };
    let id = make(&[("a", "1"), ("s/b", "2")]);
    assert_eq!(id, make(&[("s/b", "2"), ("a", "1")]));
    assert_ne!(id, make(&[("a", "1"), ("s/b", "3")]));
    assert_ne!(id, make(&[("a", "1"), ("s/c", "2")]));
    assert_ne!(id, make(&[("a", "1")]));
    assert_ne!(id, make(&[("a", "2"), ("s/b", "1")]));
}

#[cfg(unix)]
#[test]
fn links_to_files_count_and_links_to_folders_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = tempfile::tempdir().unwrap();
    fs::write(store.path().join("blob"), b"weights").unwrap();
    std::os::unix::fs::symlink(store.path().join("blob"), dir.path().join("model")).unwrap();
    let linked = ContentId::of_dir(dir.path()).unwrap();
    fs::remove_file(dir.path().join("model")).unwrap();
    fs::write(dir.path().join("model"), b"weights").unwrap();
    assert_eq!(linked, ContentId::of_dir(dir.path()).unwrap());
    std::os::unix::fs::symlink(dir.path(), dir.path().join("loop")).unwrap();
    assert!(matches!(ContentId::of_dir(dir.path()), Err(ArtifactError::Entry { .. })));
}

fn folder() -> (tempfile::TempDir, Manifest) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("adapter_model.safetensors"), vec![7u8; 5000]).unwrap();
    fs::create_dir(dir.path().join("plots")).unwrap();
    fs::write(dir.path().join("plots/loss.svg"), b"<svg/>").unwrap();
    let parent = Parent { role: "base".into(), path: "models/base".into(), id: ContentId::of_bytes(b"base") };
    let facts = json!({"steps": 10, "z": 1, "a": 0.1});
    let manifest = Manifest::describe(dir.path(), "adapter", vec![parent], facts).unwrap();
    manifest.write(dir.path()).unwrap();
    (dir, manifest)
}

#[test]
fn an_untouched_folder_verifies() {
    let (dir, manifest) = folder();
    let read = Manifest::read(dir.path()).unwrap();
    assert_eq!(read, manifest);
    assert_eq!(read.verify(dir.path()), []);
    let paths: Vec<_> = read.files.iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["adapter_model.safetensors", "plots/loss.svg"]);
    // the same work again gives the same id, whenever and wherever it is done
    let (_other, again) = folder();
    assert_eq!(again.id, manifest.id);
    let mut other = manifest.parents.clone();
    other[0].path = "elsewhere".into();
    let moved = Manifest::describe(dir.path(), "adapter", other, manifest.facts.clone()).unwrap();
    assert_eq!(moved.id, manifest.id);
    let different = Manifest::describe(dir.path(), "adapter", vec![], manifest.facts.clone()).unwrap();
    assert_ne!(different.id, manifest.id);
}

#[test]
fn verify_finds_torn_flipped_missing_and_added_files() {
    let weights = "adapter_model.safetensors";
    let (dir, manifest) = folder();
    fs::write(dir.path().join(weights), vec![7u8; 4999]).unwrap();
    fs::remove_file(dir.path().join("plots/loss.svg")).unwrap();
    fs::write(dir.path().join("extra"), b"").unwrap();
    let faults = manifest.verify(dir.path());
    assert_eq!(
        faults,
        [
            Fault::Size { path: weights.into(), expected: 5000, actual: 4999 },
            Fault::Missing { path: "plots/loss.svg".into() },
            Fault::Added { path: "extra".into() },
        ]
    );
    assert_eq!(faults[0].to_string(), format!("`{weights}` has 4999 bytes; the manifest says 5000"));
    // each single flipped bit is found
    let (dir, manifest) = folder();
    for bit in [0usize, 12_345, 39_999] {
        let mut bytes = vec![7u8; 5000];
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(dir.path().join(weights), bytes).unwrap();
        let faults = manifest.verify(dir.path());
        assert!(matches!(faults.as_slice(), [Fault::Changed { path, .. }] if path == weights), "{faults:?}");
    }
}

/// The id covers the facts, so every float must survive the file exactly.
#[test]
fn facts_with_any_float_keep_the_id() {
    let dir = tempfile::tempdir().unwrap();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let floats: Vec<f64> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        f64::from_bits(state)
    })
    .filter(|v| v.is_finite())
    .take(20_000)
    .collect();
    let manifest = Manifest::describe(dir.path(), "run", vec![], json!({"losses": floats})).unwrap();
    manifest.write(dir.path()).unwrap();
    assert_eq!(Manifest::read(dir.path()).unwrap().verify(dir.path()), []);
}

#[test]
fn an_edited_manifest_is_found() {
    let (dir, mut manifest) = folder();
    manifest.facts["steps"] = json!(11);
    assert!(matches!(manifest.verify(dir.path()).as_slice(), [Fault::Id { .. }]));
}

#[test]
fn damaged_manifests_are_errors_not_panics() {
    let (dir, _) = folder();
    let path = dir.path().join(MANIFEST_NAME);
    let whole = fs::read(&path).unwrap();
    for length in 0..whole.len() - 1 {
        // the last byte is a line end
        if length < whole.len() - 1 && Manifest::from_bytes(&whole[..length], &path).is_ok() {
            panic!("{length} of {} bytes were read as a whole manifest", whole.len());
        }
    }
    for index in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[index] ^= 1 << (index % 8);
        if let Ok(manifest) = Manifest::from_bytes(&bytes, &path) {
            let _ = manifest.verify(dir.path());
        }
    }
    let text = String::from_utf8(whole).unwrap();
    for (name, part) in [("../outside", "not inside"), ("/etc/passwd", "not inside"), ("plots/loss.svg", "twice")] {
        let bad = text.replace("adapter_model.safetensors", name);
        let error = Manifest::from_bytes(bad.as_bytes(), &path).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(Manifest::read(dir.path()), Err(ArtifactError::Read { .. })));
}

#[test]
fn times_are_those_of_the_calendar() {
    for (seconds, text) in [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_399, "2000-02-28T23:59:59Z"),
        (951_782_400, "2000-02-29T00:00:00Z"),
        (951_868_800, "2000-03-01T00:00:00Z"),
        (1_000_000_000, "2001-09-09T01:46:40Z"),
        (1_709_164_800, "2024-02-29T00:00:00Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_102_444_800, "2100-01-01T00:00:00Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"), // 2100 has no 29 February
        (253_402_300_799, "9999-12-31T23:59:59Z"),
    ] {
        assert_eq!(rfc3339(seconds), text);
    }
}
