//! A local checkpoint as the scorer of `loar data`: the loss of an answer with and without its
//! request, by the forward pass of training. With a chat template the request is one user message and
//! the answer the turn that follows, end token included, exactly as training renders the pair; without
//! a template they are a completion. An answer alone is a plain text.

use std::sync::Arc;

use loar_curate::{Models, Scorer, ScorerOptions};
use loar_text::{Body, Conversation, Message};
use loar_train::{Row, row_losses};

use crate::model_dir::{BaseForm, Dtype, ModelArgs, ModelDir};

/// Tokens of a micro-batch.
const CAPACITY: usize = 4096;

/// Opens checkpoints for the sections of a config.
pub struct LocalModels {
    /// Threads of the model.
    pub threads: usize,
}

impl Models for LocalModels {
    fn scorer(&self, options: &ScorerOptions) -> Result<Arc<dyn Scorer>, String> {
        Ok(Arc::new(LocalScorer::open(options, self.threads)?))
    }
}

/// An opened checkpoint that gives losses.
pub struct LocalScorer {
    dir: ModelDir,
    max_tokens: usize,
}

impl LocalScorer {
    /// Opens the folder.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn open(options: &ScorerOptions, threads: usize) -> Result<Self, String> {
        let args = ModelArgs {
            model: options.model.clone(),
            adapter: None,
            dtype: Dtype::default(),
            base_dtype: BaseForm::default(),
            threads,
            template: None,
        };
        let dir = ModelDir::open(&args).map_err(|failure| failure.in_words())?;
        let max_tokens = options.max_tokens.min(dir.model.config.max_position_embeddings);
        Ok(LocalScorer { dir, max_tokens })
    }

    /// The masked row of a pair; without labels where it cannot be rendered or the request fills the
    /// context.
    fn row(&self, prompt: &str, answer: &str) -> Row {
        let body = if prompt.is_empty() {
            Body::Text(answer.into())
        } else if self.dir.has_template {
            let messages = vec![Message::user(prompt), Message::assistant(answer)];
            Body::Chat(Conversation { messages, ..Conversation::default() })
        } else {
            Body::Completion { prompt: prompt.into(), completion: answer.into() }
        };
        let mut rows = self.dir.encoder.rows(&body).unwrap_or_default();
        let (ids, train) = rows.pop().map(|row| (row.ids, row.train)).unwrap_or_default();
        let mut row = Row { id: String::new(), ids, train };
        row.ids.truncate(self.max_tokens);
        row.train.truncate(self.max_tokens);
        row
    }
}

impl Scorer for LocalScorer {
    fn losses(&self, asked: &[(&str, &str)]) -> Vec<Option<f64>> {
        let rows: Vec<Row> = asked.iter().map(|(prompt, answer)| self.row(prompt, answer)).collect();
        row_losses(&self.dir.model, &rows, CAPACITY)
    }
}
