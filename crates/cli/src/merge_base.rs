//! The base that an adapter is merged into: the one it was trained on, or the checkpoint as stored.
//!
//! Takes what the adapter's manifest (or `--base-dtype`) says about the base and what the checkpoint holds. Decides which
//! numbers the update is added to, refuses what cannot be had from the folder, and says all of it in the certificate.

use std::path::Path;

use loar_artifact::Manifest;
use loar_model::BaseDtype;
use serde::Serialize;

use crate::certificate::Distance;
use crate::console::{Console, Lang};
use crate::diagnose::Failure;

/// Which numbers the update is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Onto {
    /// The base the adapter was trained on; a quantised one as the numbers its codes stand for
    #[default]
    Trained,
    /// The checkpoint as stored
    Original,
}

/// How the merge will be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Form in which the checkpoint is loaded to have the base of training.
    pub trained: BaseDtype,
    /// Whether that differs from the checkpoint as stored.
    pub differs: bool,
}

/// What the certificate says about the base.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BaseStatement {
    /// What the base was held in during training; absent when neither the adapter nor the caller says it.
    pub trained_on: Option<String>,
    /// What the checkpoint given holds.
    pub stored: String,
    pub onto: Onto,
    /// Trained base + adapter against stored base + adapter; absent where the two are one.
    pub between: Option<Distance>,
}

/// `base_dtype` of the adapter's manifest.
pub fn recorded(adapter: &Path) -> Option<String> {
    let manifest = Manifest::read(adapter).ok()?;
    Some(manifest.facts.get("base_dtype")?.as_str()?.to_owned())
}

/// What to load so that `trained_on` is had from a checkpoint that holds `stored`.
pub fn choose(trained_on: Option<&str>, stored: &str, onto: Onto) -> Result<Choice, Failure> {
    let same = Choice { trained: BaseDtype::AsStored, differs: false };
    let quantised = |word: &str| matches!(word, "int8" | "int4" | "fp8-block");
    let Some(trained_on) = trained_on.filter(|t| *t != stored) else {
        return match onto {
            Onto::Original if trained_on.is_some() && matches!(stored, "int8" | "int4") => Err(Failure::usage(
                format!("this checkpoint is the {stored} base the adapter was trained on; the original is not in it"),
            )
            .with_help(format!("name the original checkpoint as MODEL and add `--base-dtype {stored}`"))),
            _ => Ok(same),
        };
    };
    if matches!(stored, "int8" | "int4") {
        return Err(Failure::usage(format!(
            "the adapter was trained on a base in {trained_on}, and this checkpoint holds {stored}: the numbers it was trained on are not in it"
        ))
        .with_help("name the checkpoint that the adapter was trained on"));
    }
    let form = BaseDtype::from_word(trained_on);
    match form {
        Some(form) if quantised(trained_on) || form == BaseDtype::Bf16 => Ok(Choice { trained: form, differs: true }),
        _ => Err(Failure::usage(format!(
            "the adapter was trained on a base in {trained_on}, and this checkpoint holds {stored}: the numbers it was trained on are not in it"
        ))
        .with_help(format!("name the checkpoint in {trained_on}, or say `--base-dtype as-stored` to take this one for it"))),
    }
}

impl BaseStatement {
    /// For people, one paragraph.
    pub fn text(&self, console: &Console) -> String {
        let on = self.trained_on.as_deref();
        let said = match (console.lang, on, self.onto, &self.between) {
            (Lang::En, None, ..) => format!(
                "merged into the checkpoint as stored ({}): the adapter does not say which base it was trained on",
                self.stored
            ),
            (Lang::En, Some(on), _, None) => {
                format!("merged into the base the adapter was trained on, which is the checkpoint as stored ({on})")
            }
            (Lang::En, Some(on), Onto::Trained, Some(_)) => format!(
                "merged into the base the adapter was trained on: {on}, as the numbers its codes stand for; the checkpoint holds {}",
                self.stored
            ),
            (Lang::En, Some(on), Onto::Original, Some(_)) => format!(
                "merged into the checkpoint as stored ({}), NOT into the {on} base the adapter was trained on",
                self.stored
            ),
            (Lang::Zh, None, ..) => {
                format!("合并到按原样存储的检查点（{}）：适配器未注明训练时的基座形式", self.stored)
            }
            (Lang::Zh, Some(on), _, None) => format!("合并到训练时的基座，即按原样存储的检查点（{on}）"),
            (Lang::Zh, Some(on), Onto::Trained, Some(_)) => {
                format!("合并到训练时的基座：{on}，取其编码所代表的数值；检查点存储为 {}", self.stored)
            }
            (Lang::Zh, Some(on), Onto::Original, Some(_)) => {
                format!("合并到按原样存储的检查点（{}），而非训练时的 {on} 基座", self.stored)
            }
        };
        let Some(d) = &self.between else {
            return format!("{said}\n");
        };
        let gap = match console.lang {
            Lang::En => "the two bases + adapter differ by",
            Lang::Zh => "两种基座加适配器之间的差异：",
        };
        format!(
            "{said};\n{gap} {:.2e} at most, {:.2e} in the mean, KL {:.2e}, same best token {:.2} %\n",
            d.max_logit_gap,
            d.mean_logit_gap,
            d.mean_kl,
            100.0 * d.same_best_token
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_of_training_is_had_or_refused() {
        let trained = |on, stored| choose(on, stored, Onto::Trained).ok().map(|c| (c.trained, c.differs));
        let original = |on, stored| choose(on, stored, Onto::Original).ok().map(|c| (c.trained, c.differs));
        let as_stored = Some((BaseDtype::AsStored, false));
        assert_eq!(trained(None, "bf16"), as_stored);
        assert_eq!(trained(None, "int8"), as_stored);
        assert_eq!(trained(Some("int8"), "int8"), as_stored);
        assert_eq!(trained(Some("fp8-block"), "fp8-block"), as_stored);
        assert_eq!(trained(Some("int4"), "bf16"), Some((BaseDtype::Int4, true)));
        assert_eq!(trained(Some("int8"), "fp8-block"), Some((BaseDtype::Int8, true)));
        assert_eq!(trained(Some("bf16"), "f32"), Some((BaseDtype::Bf16, true)));
        assert_eq!(original(Some("int4"), "bf16"), Some((BaseDtype::Int4, true)));
        assert_eq!(original(Some("fp8-block"), "fp8-block"), as_stored);
        // The numbers are not there.
        for (on, stored) in
            [("bf16", "int8"), ("int8", "int4"), ("int4", "int8"), ("f32", "bf16"), ("f32", "fp8-block")]
        {
            assert_eq!(trained(Some(on), stored), None, "{on} from {stored}");
        }
        assert_eq!(original(Some("int8"), "int8"), None);
        assert_eq!(trained(Some("weird"), "bf16"), None);
    }
}
