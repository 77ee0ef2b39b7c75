//! Run files: every fault with its place, sources of values, the manual, the recipes.

use loar_train::config::{Source, reference};
use loar_train::{BaseFacts, RunConfig};

const BASE: BaseFacts = BaseFacts { max_position_embeddings: 131_072, num_hidden_layers: 28 };

fn root(path: &str) -> std::path::PathBuf {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).join(path)
}

#[test]
fn all_faults_come_at_once_with_places_and_nearest_names() {
    let text = "[model]\npath = \"base\"\nthreds = 2\n[data]\ntrain = [\"a.jsonl\", 3]\n[adapter]\nlora_rank = 16\nrank = \"high\"\nlearning_rate = 1e-4\n[trian]\nsteps = 5\n[eval]\npatience = -1\n";
    let error = RunConfig::parse("dir/run.toml", text, &["train.lr=1e-3".into(), "epochs".into()]).unwrap_err();
    let shown = error.to_string();
    let expected = [
        "9 faults in the run configuration",
        "dir/run.toml:3:1: unknown key `threds` in [model]; did you mean `threads`?",
        "dir/run.toml:5:21: `data.train`: expected a path in quotes, found the number `3`",
        "dir/run.toml:7:1: unknown key `lora_rank` in [adapter]; the key is `adapter.rank` here",
        "dir/run.toml:8:8: `adapter.rank`: expected a whole number from 0, found the text `high`",
        "dir/run.toml:9:1: unknown key `learning_rate` in [adapter]; `learning_rate` belongs to [train]",
        "dir/run.toml:10:2: unknown section `trian`; did you mean [train]?",
        "dir/run.toml:13:12: `eval.patience`: expected a whole number from 0, found the number `-1`",
        "--set train.lr=1e-3: unknown key `lr` in [train]; the key is `train.learning_rate` here",
        "--set epochs: `epochs` is not an override; write `--set section.key=value`",
    ];
    for line in expected {
        assert!(shown.contains(line), "missing: {line}\nin:\n{shown}");
    }
    let place = error.faults[0].place.as_ref().unwrap();
    assert_eq!(&error.texts[place.text].text[place.span.clone()], "threds");
}

#[test]
fn broken_toml_has_a_place() {
    let error = RunConfig::parse("r.toml", "[model]\npath = \n", &[]).unwrap_err();
    assert!(error.to_string().contains("r.toml:2:"), "{error}");
}

#[test]
fn sources_are_recorded_and_the_command_line_wins() {
    let text = "[model]\npath = \"m\"\n[data]\ntrain = [\"t\"]\n[train]\nlearning_rate = 3e-4\nseed = 1\n";
    let set = ["train.seed=7".to_owned(), "model.path=other/base".to_owned()];
    let run = RunConfig::parse("a/credit.toml", text, &set).unwrap().resolve(BASE).unwrap();
    assert_eq!(run.train.seed, 7);
    assert_eq!(run.model.path, std::path::Path::new("other/base"), "a value that is not TOML is text");
    let source = |key: &str| run.sources[key].clone();
    assert_eq!(source("train.seed"), Source::Set);
    assert_eq!(source("train.learning_rate"), Source::File(6));
    assert_eq!(source("adapter.rank"), Source::Default);
    assert_eq!(source("data.max_seq_len"), Source::Base);
    assert_eq!((run.data.max_seq_len, run.train.micro_batch_tokens), (4096, 4096));
    assert_eq!(run.output.dir, std::path::Path::new("runs/credit"));
    assert!(run.toml().contains("learning_rate = 0.0003  # run file, line 6"), "{}", run.toml());
}

#[test]
fn defaults_follow_the_method() {
    let parse = |text: &str| {
        RunConfig::parse("r.toml", &format!("[model]\npath = \"m\"\n[data]\ntrain = [\"t\"]\n{text}"), &[])
            .unwrap()
            .resolve(BASE)
            .unwrap()
    };
    let (lora, full) = (parse(""), parse("[adapter]\nmethod = \"full\"\n"));
    assert_eq!((lora.train.learning_rate, full.train.learning_rate), (2e-4, 1e-5));
    assert_eq!((lora.train.weight_decay, full.train.weight_decay), (0.0, 0.1));
    assert_eq!(parse("[train]\nsteps = 9\n").train.epochs, 0.0);
}

#[test]
fn contradictions_and_missing_values_come_at_once() {
    let error = RunConfig::parse("r.toml", "[train]\nseed = 1\n", &[]).unwrap().resolve(BASE).unwrap_err().to_string();
    assert!(error.contains("`model.path` is missing") && error.contains("`data.train` is missing"), "{error}");
    let text = "[model]\npath = \"m\"\n[data]\ntrain = [\"t\"]\nmax_seq_len = 200000\n[base]\ndtype = \"int4\"\n[adapter]\nmethod = \"full\"\nrank = 8\n[train]\nepochs = 1.0\nsteps = 10\nwarmup_steps = 10\n[checkpoint]\nkeep = 1\n";
    let error = RunConfig::parse("r.toml", text, &[]).unwrap().resolve(BASE).unwrap_err().to_string();
    for part in [
        "r.toml:5:15: `data.max_seq_len` is 200000, beyond the model's `max_position_embeddings` of 131072",
        "r.toml:7:9: `base.dtype` is \"int4\" with `method = \"full\"`",
        "r.toml:10:8: `adapter.rank` has no meaning with `method = \"full\"`",
        "`train.steps` and `train.epochs` are both given",
        "`train.warmup_steps` is 10, all of the 10 steps",
        "`checkpoint.keep` is 1; keep 2 or more",
    ] {
        assert!(error.contains(part), "missing: {part}\nin:\n{error}");
    }
}

#[test]
fn the_manual_is_current() {
    let path = root("docs/config.md");
    let fresh = reference();
    if std::env::var_os("LOAR_BLESS").is_some() {
        std::fs::write(&path, &fresh).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == fresh, "docs/config.md is out of date: LOAR_BLESS=1 cargo test -p loar-train --test config");
}

#[test]
fn every_recipe_resolves() {
    let mut seen = 0;
    for name in ["reference", "r1-distill-qwen-1.5b", "v2-lite", "esft-intent"] {
        let path = root("recipes").join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).unwrap();
        let run = RunConfig::parse(&path.to_string_lossy(), &text, &[])
            .unwrap_or_else(|e| panic!("{e}"))
            .resolve(BASE)
            .unwrap_or_else(|e| panic!("{e}"));
        if name == "reference" {
            let t = &run.train;
            assert_eq!(
                (run.adapter.rank, t.learning_rate, t.batch_rows, t.warmup_steps, t.steps),
                (32, 1e-4, 64, 200, 5000)
            );
        }
        seen += 1;
    }
    assert_eq!(seen, 4);
}

/// The expression of the V2-Lite recipe reaches attention, dense and shared experts, not the routed ones.
#[test]
fn the_v2_lite_recipe_reaches_what_it_says() {
    let dir = root("../shared/fixtures/deepseek_v2_lite");
    if !dir.exists() {
        println!("skipped: ../shared/fixtures/deepseek_v2_lite is absent");
        return;
    }
    let text = std::fs::read_to_string(root("recipes/v2-lite.toml")).unwrap();
    let run = RunConfig::parse("v2-lite.toml", &text, &["adapter.rank=2".into()]).unwrap().resolve(BASE).unwrap();
    let (config, _) = loar_formats::config::ModelConfig::read(&dir).unwrap();
    let mut model = loar_model::Model::random(config, 1, &loar_model::LoadOptions::default()).unwrap();
    loar_train::attach(&mut model, &run).unwrap();
    for row in model.coverage().rows {
        let reached = row.modules_adapted == row.modules;
        match row.component.as_str() {
            "mla q" | "mla kv" | "attention o" | "dense" | "shared" => assert!(reached, "{}", row.component),
            "routed" | "router" | "head" => assert_eq!(row.modules_adapted, 0, "{}", row.component),
            _ => {}
        }
    }
}

proptest::proptest! {
    /// Any text is read or refused with places inside it, never a panic.
    #[test]
    fn any_text_is_read_or_refused(text in "(\\[(model|data|train|adapter|x)\\]\n|(path|rank|train|steps|seed) ?= ?(\"a\"|3|-1|1e9|\\[1, \"b\"\\]|\\{ a = 1 \\}|0x1f)\n|[\\[\\]=\"é\n ]){0,12}", set in "[a-z.=\" é]{0,12}") {
        let overrides = [set];
        match RunConfig::parse("r.toml", &text, &overrides) {
            Ok(config) => drop(config.resolve(BASE).map_err(|e| e.to_string())),
            Err(error) => {
                proptest::prop_assert!(!error.faults.is_empty());
                for place in error.faults.iter().filter_map(|f| f.place.as_ref()) {
                    proptest::prop_assert!(place.span.end <= error.texts[place.text].text.len());
                }
                proptest::prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
