//! `loar export`: an adapter to a merged checkpoint, another PEFT layout, or an Ollama folder.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use loar_artifact::{ContentId, Manifest, Parent, write_atomic};
use loar_decode::Sampling;
use loar_formats::config::ModelConfig;
use loar_formats::generation::GenerationConfig;
use loar_formats::peft;
use loar_formats::safetensors::Checkpoint;
use loar_model::{BaseDtype, ExpertsLayout, Model, StoredDtype};
use serde_json::json;

use crate::certificate::{Certificate, Distance, all_logits, distance};
use crate::compat::{self, Profile, Verdict};
use crate::console::{Console, Lang, Style};
use crate::diagnose::Failure;
use crate::merge_base::{self, BaseStatement, Choice, Onto};
use crate::model_dir::{BaseForm, Dtype, load, open_encoder, require_dir};
use crate::modelfile::Modelfile;
use crate::sample_prompts::Prompts;
use crate::table::Table;

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A plain checkpoint in release names, certified against base and adapter
    Merged,
    /// The adapter again, in another layout of routed experts
    Peft,
    /// A merged checkpoint with a Modelfile
    Ollama,
}

/// How routed experts are stored in a PEFT adapter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Layout {
    /// One pair for each expert and projection
    #[default]
    PerExpert,
    /// One pair for all experts of a layer
    Fused,
}

/// Turn an adapter into what others load
///
/// Writes the folder whole or not at all, with a manifest of its parents and compatibility.md: which
/// program applies which part. Exits with 1, and leaves nothing, when merging would lose what was
/// learnt.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint folder the adapter was made on
    model: PathBuf,
    /// PEFT adapter folder
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// Folder to write; must not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value = "merged")]
    format: Format,
    /// Layout of routed experts for `peft`
    #[arg(long, value_enum, default_value_t)]
    experts_layout: Layout,
    /// Stored type of merged tensors
    #[arg(long, value_enum, default_value_t)]
    dtype: Dtype,
    /// Which numbers the update is added to
    ///
    /// An adapter also makes good the errors of the base it was trained on. `trained` keeps that pair; `original` adds
    /// the update to the checkpoint as stored, which nobody has evaluated. The certificate says which, and how far they
    /// are apart.
    #[arg(long, value_enum, default_value_t)]
    onto: Onto,
    /// What the base was held in while training, where the adapter's manifest does not say it (or is to be overruled:
    /// `as-stored`)
    #[arg(long, value_enum)]
    base_dtype: Option<BaseForm>,
    /// Text file whose lines are the prompts of the certificate
    #[arg(long, value_name = "FILE")]
    prompts: Option<PathBuf>,
    /// Threads; 0 takes every core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    require_dir(&args.model)?;
    require_dir(&args.adapter)?;
    if args.out.exists() {
        return Err(Failure::usage(format!("`{}` exists already", args.out.display()))
            .with_help("name a folder that does not exist; an export never overwrites"));
    }
    let partial = partial_path(&args.out);
    let result = export(&args, &partial, console);
    if !matches!(result, Ok(code) if code == Finding::Done) {
        // Whatever was begun is of no use; failing to remove it must not hide the reason.
        let _ = std::fs::remove_dir_all(&partial);
    }
    result.map(|finding| ExitCode::from(u8::from(finding == Finding::Refused)))
}

#[derive(PartialEq, Eq, Clone, Copy)]
enum Finding {
    Done,
    Refused,
}

/// `OUT.partial-PID`, beside the result so that the last step is a rename.
pub(super) fn partial_path(out: &Path) -> PathBuf {
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".partial-{}", std::process::id()));
    out.with_file_name(name)
}

fn export(args: &Args, partial: &Path, console: &Console) -> Result<Finding, Failure> {
    std::fs::create_dir_all(partial).map_err(|e| Failure::file(partial, "created", &e))?;
    let (base_config, _) = ModelConfig::read(&args.model)?;
    let (adapter_config, tensors) = peft::read(&args.adapter)?;
    let keys = peft::parse_keys(&adapter_config, tensors.names())
        .map_err(|faults| Failure::usage(format!("`{}` cannot be read", args.adapter.display())).with_faults(faults))?;
    let mut profile = Profile::of(&adapter_config, keys.iter().map(|(_, k)| k), Some(&base_config));
    let mut model = load(&args.model, Dtype::F32, BaseDtype::AsStored, args.threads)?;
    let mut to_merge = None;
    if args.format == Format::Peft {
        model.load_adapter(&args.adapter)?;
    } else {
        let recorded = merge_base::recorded(&args.adapter);
        let given = args.base_dtype.map(|form| match form {
            BaseForm::AsStored => model.base_dtype(),
            form => form.dtype().word().to_owned(),
        });
        if let (Some(given), Some(recorded)) = (&given, &recorded)
            && given != recorded
            && args.base_dtype != Some(BaseForm::AsStored)
        {
            return Err(Failure::usage(format!(
                "the adapter's manifest says it was trained on {recorded}, not {given}"
            ))
            .with_help("leave `--base-dtype` out, or overrule the manifest with `--base-dtype as-stored`"));
        }
        let trained_on = given.or(recorded);
        let stored = model.base_dtype();
        let choice = merge_base::choose(trained_on.as_deref(), &stored, args.onto)?;
        let prompts = Prompts::of(&args.model, args.prompts.as_deref(), &model)?;
        let (kept, bare, between) = bases(args, model, choice, &prompts)?;
        model = kept;
        let statement = BaseStatement { trained_on, stored, onto: args.onto, between };
        to_merge = Some((prompts, bare, statement));
    }

    let mut certificate = None;
    let mut modelfile_has_template = None;
    match to_merge {
        None => {
            let layout = match args.experts_layout {
                Layout::PerExpert => ExpertsLayout::PerExpert,
                Layout::Fused => ExpertsLayout::Fused,
            };
            let base_name = adapter_config.base_model_name_or_path.clone();
            let base_name = base_name.unwrap_or_else(|| args.model.display().to_string());
            model.save_adapter(partial, layout, &base_name)?;
            profile.fused_experts =
                profile.modules.contains_key(&compat::Part::Routed) && layout == ExpertsLayout::Fused;
        }
        Some((prompts, bare, statement)) => {
            let found = merge(args, partial, &model, &prompts, &bare, statement)?;
            if let Some(reason) = found.refusal() {
                report_refusal(args, &found, &reason, console)?;
                return Ok(Finding::Refused);
            }
            let text = format!("{}\n", serde_json::to_string_pretty(&found)?);
            write_atomic(&partial.join("certificate.json"), text.as_bytes())?;
            copy_companions(&args.model, partial)?;
            if args.format == Format::Ollama {
                modelfile_has_template = Some(write_modelfile(args, partial, &base_config)?);
            }
            certificate = Some(found);
        }
    }
    let rows = compat::rows(&profile, console.lang);
    let report = compat::markdown(&rows, args.format != Format::Peft, console.lang);
    write_atomic(&partial.join("compatibility.md"), report.as_bytes())?;
    write_manifest(args, partial, certificate.as_ref())?;
    std::fs::rename(partial, &args.out).map_err(|e| Failure::file(&args.out, "written", &e))?;

    if args.json {
        console.line(json!({
            "out": args.out, "format": format_name(args.format), "certificate": certificate,
            "compatibility": rows, "modelfile_has_template": modelfile_has_template,
        }))?;
        return Ok(Finding::Done);
    }
    if let Some(c) = &certificate {
        console.write(certificate_text(c, console))?;
        console.line("")?;
    }
    console.write(compat::table(&rows, console.lang).render(0))?;
    if certificate.is_none() && rows.iter().any(|r| r.verdict != Verdict::Full) {
        console.remark(console.pick(
            "`--format merged` writes a checkpoint that every one of them applies whole",
            "`--format merged` 可写出所有程序都完整应用的检查点",
        ));
    }
    if modelfile_has_template == Some(false) {
        console.warn(console.pick(
            "the Modelfile has no TEMPLATE: the checkpoint's template is not made of turns with fixed markers",
            "Modelfile 未含 TEMPLATE：该检查点的模板不是由固定标记的轮次构成",
        ));
    }
    console.line(format_args!(
        "\n{} {}",
        console.paint(Style::Green, console.pick("written:", "已写入：")),
        args.out.display()
    ))?;
    if args.format == Format::Ollama {
        console.line(format_args!("  ollama create NAME -f {}", args.out.join("Modelfile").display()))?;
    }
    Ok(Finding::Done)
}

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Merged => "merged",
        Format::Peft => "peft",
        Format::Ollama => "ollama",
    }
}

/// The model with its adapter on the base that the merge goes onto, the logits of that base alone, and how far the other
/// base with the adapter is from it. One model is held at a time.
fn bases(
    args: &Args,
    stored: Model,
    choice: Choice,
    prompts: &Prompts,
) -> Result<(Model, Vec<loar_tape::Tensor>, Option<Distance>), Failure> {
    let adapted = |mut model: Model| -> Result<_, Failure> {
        let bare = all_logits(&model, &prompts.sequences);
        model.load_adapter(&args.adapter)?;
        let logits = all_logits(&model, &prompts.sequences);
        Ok((model, bare, logits))
    };
    if !choice.differs {
        let (model, bare, _) = adapted(stored)?;
        return Ok((model, bare, None));
    }
    let trained = || load(&args.model, Dtype::F32, choice.trained, args.threads);
    let (kept, other) = match args.onto {
        Onto::Trained => (adapted(trained()?)?, adapted(stored)?.2),
        Onto::Original => (adapted(stored)?, adapted(trained()?)?.2),
    };
    let (model, bare, logits) = kept;
    let between = match args.onto {
        Onto::Trained => distance(&logits, &other),
        Onto::Original => distance(&other, &logits),
    };
    Ok((model, bare, Some(between)))
}

/// Writes the merged weights, loads them again as anybody would, and measures.
fn merge(
    args: &Args,
    partial: &Path,
    model: &Model,
    prompts: &Prompts,
    bare: &[loar_tape::Tensor],
    base: BaseStatement,
) -> Result<Certificate, Failure> {
    let (source, _) = Checkpoint::open_dir(&args.model)?;
    let dtype = match args.dtype {
        Dtype::Bf16 => StoredDtype::Bf16,
        Dtype::F32 => StoredDtype::F32,
    };
    let weights = model.save_merged(&source, partial, dtype)?;
    let trained = all_logits(model, &prompts.sequences);
    let merged = load(partial, Dtype::F32, BaseDtype::AsStored, args.threads)?;
    Ok(Certificate {
        prompts: prompts.origin.clone(),
        sequences: prompts.sequences.len(),
        base,
        dtype: match args.dtype {
            Dtype::Bf16 => "bfloat16",
            Dtype::F32 => "float32",
        },
        merged: distance(&trained, &all_logits(&merged, &prompts.sequences)),
        adapter_effect: distance(&trained, bare),
        weights,
    })
}

/// Everything of a checkpoint folder that is not weights, their index or the config.
pub(super) fn copy_companions(from: &Path, to: &Path) -> Result<(), Failure> {
    let entries = std::fs::read_dir(from).map_err(|e| Failure::file(from, "read", &e))?;
    for entry in entries {
        let entry = entry.map_err(|e| Failure::file(from, "read", &e))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let upper = name.to_ascii_uppercase();
        let legal = ["LICENSE", "LICENCE", "COPYING", "NOTICE"].iter().any(|w| upper.starts_with(w));
        let kind = Path::new(&name).extension().and_then(|e| e.to_str()).unwrap_or("");
        let text = matches!(kind, "json" | "jinja" | "txt" | "model" | "py");
        let skipped = ["config.json", "model.safetensors.index.json", "manifest.json", "certificate.json"];
        if !(legal || text) || skipped.contains(&name.as_str()) || !entry.path().is_file() {
            continue;
        }
        let bytes = std::fs::read(entry.path()).map_err(|e| Failure::file(&entry.path(), "read", &e))?;
        write_atomic(&to.join(&name), &bytes)?;
    }
    Ok(())
}

/// Whether the Modelfile has a template.
fn write_modelfile(args: &Args, partial: &Path, config: &ModelConfig) -> Result<bool, Failure> {
    let (encoder, _) = open_encoder(&args.model, None)?;
    let tokenizer = encoder.tokenizer();
    let generation = GenerationConfig::read(&args.model)?.unwrap_or_default();
    let bos = tokenizer.bos_id().map(|id| tokenizer.decode(&[id], false)).unwrap_or_default();
    let mut ends = config.eos_token_ids.clone();
    ends.extend(encoder.stop_ids().into_iter().filter(|id| !config.eos_token_ids.contains(id)));
    let file = Modelfile {
        from: ".",
        template: encoder.template().map(|t| (t, bos.as_str())),
        adds_bos: tokenizer.adds_bos(),
        sampling: &Sampling::of_checkpoint(&generation),
        stops: ends.iter().map(|id| tokenizer.decode(&[*id], false)).collect(),
    };
    let (text, has_template) = file.render();
    write_atomic(&partial.join("Modelfile"), text.as_bytes())?;
    Ok(has_template)
}

fn write_manifest(args: &Args, partial: &Path, certificate: Option<&Certificate>) -> Result<(), Failure> {
    let parent = |role: &str, path: &Path| -> Result<Parent, Failure> {
        Ok(Parent { role: role.to_owned(), path: path.display().to_string(), id: ContentId::of_dir(path)? })
    };
    let parents = vec![parent("base", &args.model)?, parent("adapter", &args.adapter)?];
    let kind = if args.format == Format::Peft { "adapter" } else { "model" };
    let facts = json!({
        "format": format_name(args.format), "certificate": certificate,
        "base": certificate.map(|c| &c.base),
    });
    Manifest::describe(partial, kind, parents, facts)?.write(partial)?;
    Ok(())
}

fn report_refusal(args: &Args, c: &Certificate, reason: &str, console: &Console) -> Result<(), Failure> {
    if args.json {
        console.line(json!({"out": null, "refused": reason, "certificate": c}))?;
        return Ok(());
    }
    console.write(certificate_text(c, console))?;
    console.line(format_args!("\n{}: {reason}", console.paint(Style::Red, console.pick("refused", "已拒绝"))))?;
    console.line(console.pick(
        "nothing was written; `--dtype f32` keeps the update, or deploy the adapter unmerged",
        "未写入任何文件；可用 `--dtype f32` 保留更新，或不合并直接部署适配器",
    ))?;
    Ok(())
}

fn certificate_text(c: &Certificate, console: &Console) -> String {
    let mut table = Table::new(&[
        console.pick("base + adapter against", "基座+适配器 对比").to_owned(),
        format!(">{}", console.pick("largest gap", "最大差")),
        format!(">{}", console.pick("mean gap", "平均差")),
        format!(">{}", console.pick("mean KL", "平均 KL")),
        format!(">{}", console.pick("largest KL", "最大 KL")),
        format!(">{}", console.pick("same best token", "首选词元一致")),
    ]);
    for (name, d) in
        [(console.pick("merged", "合并后"), &c.merged), (console.pick("bare base", "裸基座"), &c.adapter_effect)]
    {
        table.row([
            name.to_owned(),
            format!("{:.2e}", d.max_logit_gap),
            format!("{:.2e}", d.mean_logit_gap),
            format!("{:.2e}", d.mean_kl),
            format!("{:.2e}", d.max_kl),
            format!("{:.2} %", 100.0 * d.same_best_token),
        ]);
    }
    let w = &c.weights;
    let share = 100.0 * w.changed_entries as f64 / w.merged_entries.max(1) as f64;
    let dequantised = match (console.lang, w.dequantized_tensors) {
        (_, 0) => String::new(),
        (Lang::En, n) => format!(", {n} dequantised"),
        (Lang::Zh, n) => format!("，{n} 个反量化"),
    };
    let about = match console.lang {
        Lang::En => format!(
            "{} tensors merged into {}, {:.2} % of their entries changed; {} passed on{}; measured at {} positions of {} sequences ({})\n",
            w.merged_tensors,
            c.dtype,
            share,
            w.unchanged_tensors,
            dequantised,
            c.merged.positions,
            c.sequences,
            c.prompts
        ),
        Lang::Zh => format!(
            "{} 个张量合并为 {}，其中 {:.2} % 的数值改变；{} 个原样保留{}；在 {} 个位置、{} 条序列上测量（{}）\n",
            w.merged_tensors,
            c.dtype,
            share,
            w.unchanged_tensors,
            dequantised,
            c.merged.positions,
            c.sequences,
            c.prompts
        ),
    };
    table.render(0) + &about + &c.base.text(console)
}
