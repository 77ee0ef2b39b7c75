//! From a resolved run to what training needs: the model with its adapter, token rows, the ledger.
//!
//! Reads the base and the data, writes nothing.

use std::path::Path;

use loar_artifact::{ContentId, IdHasher, Parent};
use loar_formats::config::ModelConfig;
use loar_model::{AdapterSpec, BaseDtype, LoadOptions, Model, Preset};
use loar_tape::Precision;

use crate::config::{BaseFacts, BaseForm, Dtype, Method, ResolvedRun, RunConfig, Targets};
use crate::ledger::Ledger;
use crate::observer::{Event, Observer};
use crate::pack::Row;
use crate::rows::load_rows;
use crate::{TrainError, memory, stages};

/// Everything that a training loop takes.
pub struct Inputs {
    /// The base with trainable parameters attached.
    pub model: Model,
    /// Rows to train on.
    pub rows: Vec<Row>,
    /// Rows to evaluate on.
    pub eval_rows: Vec<Row>,
    /// Rows of each stage of `data.schedule`, when there is one.
    pub stages: Option<Vec<Vec<usize>>>,
    /// Their account.
    pub ledger: Ledger,
    /// What the result comes from.
    pub parents: Vec<Parent>,
    /// Content of the base.
    pub base_id: ContentId,
    /// Resident memory before the model was loaded: program, tokenizer, rows.
    pub resident_before: Option<u64>,
}

/// Reads a run file, looks at its base, and decides every value.
///
/// # Errors
/// [`TrainError::Io`], [`TrainError::Config`], [`TrainError::Format`].
pub fn load_run(path: &Path, overrides: &[String]) -> Result<ResolvedRun, TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    let config = RunConfig::parse(&path.to_string_lossy(), &text, overrides)?;
    let facts = match &config.model.path {
        Some(model) => base_facts(&model.value)?,
        // the resolver will say that the path is missing; these bounds let it find the rest
        None => BaseFacts { max_position_embeddings: usize::MAX, num_hidden_layers: usize::MAX },
    };
    Ok(config.resolve(facts)?)
}

/// What resolution needs of a checkpoint folder.
///
/// # Errors
/// [`TrainError::Format`] when its `config.json` cannot be used.
pub fn base_facts(dir: &Path) -> Result<BaseFacts, TrainError> {
    let (config, _) = ModelConfig::read(dir)?;
    Ok(BaseFacts {
        max_position_embeddings: config.max_position_embeddings,
        num_hidden_layers: config.num_hidden_layers,
    })
}

/// Files of a checkpoint folder that decide what the model computes and reads.
fn is_base_file(name: &str) -> bool {
    name.ends_with(".safetensors")
        || name.ends_with(".safetensors.index.json")
        || matches!(
            name,
            "config.json"
                | "generation_config.json"
                | "tokenizer.json"
                | "tokenizer_config.json"
                | "special_tokens_map.json"
                | "chat_template.jinja"
                | "chat_template.json"
        )
}

/// Id over names and bytes of the files that make up a base.
///
/// # Errors
/// [`TrainError::Io`], [`TrainError::Artifact`].
pub fn base_id(dir: &Path) -> Result<ContentId, TrainError> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(TrainError::io(dir))?
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|n| is_base_file(n))
        .collect();
    names.sort_unstable();
    let mut hasher = IdHasher::new();
    for name in names {
        let id = ContentId::of_file(&dir.join(&name))?;
        hasher.update(format!("{name} {id}\n").as_bytes());
    }
    Ok(hasher.finish())
}

/// Loads everything.
///
/// # Errors
/// Any fault of base, data, template or ledger, before a single step is computed.
pub fn prepare(run: &ResolvedRun, observer: &mut dyn Observer) -> Result<Inputs, TrainError> {
    observer.on(&Event::Phase { name: "hash" });
    let base_id = base_id(&run.model.path)?;
    observer.on(&Event::Phase { name: "data" });
    let (config, _) = ModelConfig::read(&run.model.path)?;
    let mut parents =
        vec![Parent { role: "base".into(), path: run.model.path.to_string_lossy().into_owned(), id: base_id }];
    let (rows, eval_rows, ledger) = load_rows(run, &config, &mut parents, observer)?;
    let stages = if run.data.schedule.is_empty() {
        None
    } else {
        let path = Path::new(&run.data.schedule);
        let files: Vec<String> = parents.iter().filter(|p| p.role == "data").map(|p| p.path.clone()).collect();
        let stages = stages::read(path, &rows, &files, observer)?;
        let path_text = run.data.schedule.clone();
        parents.push(Parent { role: "schedule".into(), path: path_text, id: ContentId::of_file(path)? });
        Some(stages)
    };
    observer.on(&Event::Phase { name: "load" });
    let resident_before = memory::resident_bytes();
    let mut model = load_base(run)?;
    for row in rows.iter().chain(&eval_rows) {
        model.check_ids(&row.ids)?;
    }
    attach(&mut model, run)?;
    Ok(Inputs { model, rows, eval_rows, stages, ledger, parents, base_id, resident_before })
}

/// The base of a run, nothing trainable yet.
///
/// # Errors
/// [`TrainError::Model`].
pub fn load_base(run: &ResolvedRun) -> Result<Model, TrainError> {
    let precision = match run.model.dtype {
        Dtype::Bf16 => Precision::Bf16,
        Dtype::F32 => Precision::F32,
    };
    let options = LoadOptions { threads: run.model.threads, precision, base: base_dtype(run.base.dtype) };
    Ok(Model::load(&run.model.path, &options)?)
}

/// As the loader names it.
pub fn base_dtype(form: BaseForm) -> BaseDtype {
    match form {
        BaseForm::AsStored => BaseDtype::AsStored,
        BaseForm::Bf16 => BaseDtype::Bf16,
        BaseForm::Int8 => BaseDtype::Int8,
        BaseForm::Int4 => BaseDtype::Int4,
        BaseForm::Fp8Block => BaseDtype::Fp8Block,
    }
}

/// Makes parameters trainable as the run says.
///
/// # Errors
/// [`TrainError::Model`], when a named target does not exist for instance.
pub fn attach(model: &mut Model, run: &ResolvedRun) -> Result<(), TrainError> {
    match run.adapter.method {
        Method::Full => model.train_full()?,
        Method::Lora => model.attach(&spec(run), run.train.seed)?,
    }
    Ok(())
}

/// The adapter settings of a run.
pub fn spec(run: &ResolvedRun) -> AdapterSpec {
    let a = &run.adapter;
    let targets = match &a.targets {
        Targets::Modules(names) => loar_model::Targets::Modules(names.clone()),
        Targets::Regex(regex) => loar_model::Targets::Regex(regex.clone()),
        Targets::Preset(name) => loar_model::Targets::Preset(match name.as_str() {
            "attention" => Preset::Attention,
            "mlp" => Preset::Mlp,
            "experts" => Preset::Experts,
            _ => Preset::AllLinear,
        }),
    };
    AdapterSpec {
        rank: a.rank,
        alpha: a.alpha,
        dropout: a.dropout as f32,
        use_rslora: a.use_rslora,
        use_dora: a.use_dora,
        targets,
        exclude: a.exclude.clone(),
        layers: (!a.layers.is_empty()).then(|| a.layers.clone()),
        rank_pattern: a.rank_pattern.clone(),
        alpha_pattern: a.alpha_pattern.clone(),
        ffn_blocks: (a.ffn_blocks > 1).then_some(a.ffn_blocks),
        modules_to_save: a.modules_to_save.clone(),
    }
}
