//! A local checkpoint as the judge of `loar annotate judge`: greedy answers, through its own chat
//! template, without its chain of thought.

use std::path::{Path, PathBuf};

use loar_annotate::judge::{Judge, JudgeError, Reply};
use loar_decode::{Generator, Request};
use loar_text::{Conversation, Message, StreamParser, Thinking};

use crate::diagnose::Failure;
use crate::model_dir::{BaseForm, Dtype, ModelArgs, ModelDir};

/// An opened checkpoint that answers questions about rows.
pub struct LocalJudge {
    dir: ModelDir,
    name: String,
}

impl LocalJudge {
    /// Opens a checkpoint folder, with an adapter if one is given.
    pub fn open(model: &Path, adapter: Option<PathBuf>) -> Result<Self, Failure> {
        let args = ModelArgs {
            model: model.to_owned(),
            adapter,
            dtype: Dtype::default(),
            base_dtype: BaseForm::default(),
            threads: 0,
            template: None,
        };
        let dir = ModelDir::open(&args)?;
        dir.require_template()?;
        let name = model.file_name().map_or_else(|| model.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Self { dir, name })
    }
}

impl Judge for LocalJudge {
    fn name(&self) -> &str {
        &self.name
    }

    fn ask(&mut self, system: &str, user: &str) -> Result<Reply, JudgeError> {
        let messages = vec![Message::system(system), Message::user(user)];
        let conversation = Conversation { messages, ..Conversation::default() };
        let prompt = self.dir.encoder.prompt_with(&conversation, Thinking::Default);
        let prompt = prompt.map_err(|e| JudgeError::Model(e.to_string()))?;
        let generator = Generator::new(&self.dir.model, self.dir.encoder.tokenizer(), self.dir.end_ids.clone());
        let request = Request { prompt_ids: prompt.ids.clone(), ..Request::default() };
        let done = generator.generate(&[request], |_| {}).map_err(|e| JudgeError::Model(e.to_string()))?;
        let completion = done.first().ok_or_else(|| JudgeError::Model("it gave no answer".into()))?;
        Ok(Reply {
            text: StreamParser::parse(&completion.text, prompt.starts_in_reasoning).answer,
            prompt_tokens: prompt.ids.len() as u64,
            completion_tokens: completion.ids.len() as u64,
        })
    }
}
