//! Policies: how a kind of model is asked, as data.
//!
//! Three are built in (`policy.toml`). Which one a model gets is read off its rendered prompt: a model
//! whose reply begins inside `<think>` is a reasoning model, whatever it is called. A user's file may set
//! single values, and may hold a section for one model by its content id, which is where measured choices
//! are kept.

use std::collections::BTreeMap;
use std::path::Path;

use loar_text::Thinking;
use serde::{Deserialize, Serialize};

/// The built-in file.
const BUILT_IN: &str = include_str!("policy.toml");

/// When the answer is asked for behind the chain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExtractWhen {
    /// Where the chain gives none.
    #[default]
    Missing,
    /// Always (Kojima et al. 2022).
    Always,
    /// Never.
    Never,
}

/// How a model is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// System turn; none when empty.
    pub system: String,
    /// Whether the template opens the thought.
    pub thinking: Thinking,
    /// What follows a question that is to be reasoned about.
    pub instruction: String,
    /// What follows a question that is to be answered at once.
    pub direct: String,
    /// What ends a thought that is still open.
    pub close: String,
    /// What asks for the answer behind a chain.
    pub extract: String,
    /// When it does.
    pub extract_when: ExtractWhen,
    /// What stands in the place of an end of thinking that is not let pass.
    pub wait: String,
    /// Temperature where several paths are wanted.
    pub temperature: f64,
    /// Nucleus.
    pub top_p: f64,
    /// Examples where the strategy takes any.
    pub examples: usize,
    /// Tokens of one path.
    pub max_new_tokens: usize,
    /// Texts that end a path.
    pub stop: Vec<String>,
}

/// What a model's prompt shows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nature {
    /// The reply begins inside the thought.
    Reasoning,
    /// A chat template.
    Plain,
    /// No template.
    Text,
}

impl Nature {
    /// Its section.
    pub fn name(self) -> &'static str {
        match self {
            Nature::Reasoning => "reasoning",
            Nature::Plain => "plain",
            Nature::Text => "text",
        }
    }
}

/// All policies.
#[derive(Debug, Clone)]
pub struct Policies(BTreeMap<String, toml::Table>);

/// A policy file that is none.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {message}")]
pub struct PolicyError {
    /// The file.
    pub file: String,
    /// What is wrong.
    pub message: String,
}

impl Policies {
    /// The built-in ones, with a user's file over them.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a value of another type.
    pub fn read(user: Option<&Path>) -> Result<Self, PolicyError> {
        let mut all = Self::parse("policy.toml", BUILT_IN)?;
        if let Some(path) = user {
            let file = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|e| PolicyError { file: file.clone(), message: format!("cannot be read: {e}") })?;
            for (name, section) in Self::parse(&file, &text)?.0 {
                all.0.entry(name).or_default().extend(section);
            }
            let names: Vec<String> = all.0.keys().cloned().collect();
            for name in names {
                all.resolve(Nature::Plain, Some(&name)).map_err(|e| PolicyError { file: file.clone(), ..e })?;
            }
        }
        Ok(all)
    }

    fn parse(file: &str, text: &str) -> Result<Self, PolicyError> {
        let error = |message: String| PolicyError { file: file.to_owned(), message };
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| error(e.to_string()))?;
        let mut sections = BTreeMap::new();
        for (name, value) in table {
            let toml::Value::Table(section) = value else {
                return Err(error(format!("`{name}` stands outside a section such as [plain]")));
            };
            sections.insert(name, section);
        }
        Ok(Self(sections))
    }

    /// The policy of a model by its nature, with the values measured for it where its content id has a
    /// section.
    ///
    /// # Errors
    /// Unknown keys and values of another type.
    pub fn resolve(&self, nature: Nature, model: Option<&str>) -> Result<Policy, PolicyError> {
        let mut table = self.0.get(nature.name()).cloned().unwrap_or_default();
        if let Some(own) = model.and_then(|id| self.0.get(id)) {
            table.extend(own.clone());
        }
        let name = model.unwrap_or(nature.name());
        toml::Value::Table(table)
            .try_into()
            .map_err(|e: toml::de::Error| PolicyError { file: "policy".into(), message: format!("[{name}]: {e}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_policies_read_and_a_users_file_goes_over_them() {
        let built_in = Policies::read(None).unwrap();
        let r1 = built_in.resolve(Nature::Reasoning, None).unwrap();
        assert_eq!((r1.system.as_str(), r1.temperature, r1.top_p, r1.examples), ("", 0.6, 0.95, 0));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.toml");
        std::fs::write(&path, "[plain]\ntemperature = 0.2\n[\"sha256:aa\"]\nexamples = 2\n").unwrap();
        let mine = Policies::read(Some(&path)).unwrap();
        assert_eq!(mine.resolve(Nature::Plain, None).unwrap().temperature, 0.2);
        let measured = mine.resolve(Nature::Plain, Some("sha256:aa")).unwrap();
        assert_eq!((measured.examples, measured.temperature), (2, 0.2));
        for (bad, part) in
            [("[plain]\ntemprature = 1.0", "temprature"), ("x = 1", "`x`"), ("[plain]\ntop_p = \"a\"", "top_p")]
        {
            std::fs::write(&path, bad).unwrap();
            let error = Policies::read(Some(&path)).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("mine.toml"), "{error}");
        }
    }
}
