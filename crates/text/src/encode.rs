//! Conversations to token rows, and to prompts for generation, by the same functions.
//!
//! Takes an example, gives rows with a loss mask and counts for the ledger, or the reason why not.
//! A row's prefix is what generation feeds, token for token. Never truncates and never packs.

use crate::conversation::{Body, Conversation, ConversationError};
use crate::hide::Hidden;
use crate::options::{EncodeOptions, Prompt, Thinking};
use crate::prepare::Prepared;
use crate::row::{RowBuilder, TokenRow};
use crate::row_error::{RowError, RowFault};
use crate::shape::{Prefill, Shape};
use crate::stream::StreamParser;
use crate::template::ChatTemplate;
use crate::tokenizer::Tokenizer;
use crate::turn::{MarkedPrompt, Turns};
use std::sync::Arc;

/// Renders and tokenizes, for training and serving alike. Cheap to clone, shared between threads.
#[derive(Clone, Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    template: Option<Arc<(ChatTemplate, Shape)>>,
    options: EncodeOptions,
}

impl Encoder {
    /// `template` may be absent when all data is completions or text.
    pub fn new(tokenizer: Tokenizer, template: Option<ChatTemplate>, options: EncodeOptions) -> Self {
        let template = template.map(|t| {
            let shape = Shape::probe(&t, &tokenizer);
            Arc::new((t, shape))
        });
        Encoder { tokenizer, template, options }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The chat template.
    pub fn template(&self) -> Option<&ChatTemplate> {
        self.template.as_ref().map(|t| &t.0)
    }

    /// Whether the template can start generation inside, or after, a think block.
    pub fn thinks(&self) -> bool {
        self.template.as_ref().is_some_and(|t| t.1.thinks)
    }

    /// Ids that end an assistant turn: the template's and the tokenizer's. Generation stops there.
    pub fn stop_ids(&self) -> Vec<u32> {
        let end = self.template.as_ref().and_then(|t| t.1.end.as_ref().map(|(_, id)| *id));
        let mut ids: Vec<u32> = end.into_iter().chain(self.tokenizer.eos_id()).collect();
        ids.dedup();
        ids
    }

    /// Parser for what the model generates after a prompt of this encoder.
    pub fn parser(&self, prompt: &Prompt) -> StreamParser {
        let (lead, tail) = self.template.as_ref().map_or(("", ""), |t| (&*t.1.lead, &*t.1.tail));
        StreamParser::new(prompt.starts_in_reasoning).with_margins(lead, tail)
    }

    /// Token rows of one example: one for each trained turn where the template rewrites history
    /// (as it does when serving), one for several turns where it does not.
    pub fn rows(&self, body: &Body) -> Result<Vec<TokenRow>, RowError> {
        match body {
            Body::Chat(conversation) => self.chat_rows(conversation),
            Body::Completion { prompt, completion } => {
                self.plain_row(prompt, completion).map(|row| vec![row]).map_err(RowError::from)
            }
            Body::Text(text) => self.plain_row("", text).map(|row| vec![row]).map_err(RowError::from),
        }
    }

    /// What generation feeds for a conversation that ends before an assistant turn.
    pub fn prompt(&self, conversation: &Conversation) -> Result<Prompt, RowError> {
        self.prompt_with(conversation, Thinking::Default)
    }

    /// As [`Encoder::prompt`], with thinking forced on or off.
    pub fn prompt_with(&self, conversation: &Conversation, thinking: Thinking) -> Result<Prompt, RowError> {
        let (template, shape) = self.chat_parts()?;
        let faults: Vec<_> = conversation
            .faults()
            .into_iter()
            // Loss flags mean nothing here.
            .filter(|f| !matches!(f, ConversationError::TrainedRole { .. } | ConversationError::EmptyAssistant { .. }))
            .collect();
        if !faults.is_empty() {
            return Err(RowFault::Conversation(faults).into());
        }
        if conversation.messages.last().is_some_and(|m| m.is_assistant()) {
            return Err(RowFault::EndsInAssistant.into());
        }
        let prepared = self.prepare(conversation, template, shape)?;
        let turns = Turns { prepared: &prepared, template, shape, now_unix: self.options.now_unix };
        let marked = turns.prompt(conversation.messages.len(), thinking)?;
        let ids = self.prompt_ids(&prepared.hidden, &marked.text)?;
        Ok(Prompt {
            text: prepared.hidden.restore(&marked.text),
            ids,
            starts_in_reasoning: matches!(marked.prefill, Prefill::Open(_)),
        })
    }

    /// What generation feeds for a plain completion: BOS where the tokenizer adds one, and the text.
    pub fn completion_prompt(&self, prompt: &str) -> Result<Prompt, RowError> {
        let hidden = Hidden::new(&self.tokenizer, self.options.allow_control_tokens, [prompt].into_iter());
        let ids = self.plain_ids(hidden, prompt)?;
        Ok(Prompt { text: prompt.into(), ids, starts_in_reasoning: false })
    }

    fn chat_parts(&self) -> Result<(&ChatTemplate, &Shape), RowFault> {
        self.template.as_ref().map(|t| (&t.0, &t.1)).ok_or(RowFault::NoTemplate)
    }

    fn prepare(
        &self,
        conversation: &Conversation,
        template: &ChatTemplate,
        shape: &Shape,
    ) -> Result<Prepared<'_>, RowFault> {
        Ok(Prepared::new(conversation, &self.tokenizer, template, shape, self.options.allow_control_tokens)?)
    }

    /// Ids of a rendered prompt with exactly one BOS where template or tokenizer put one.
    fn prompt_ids(&self, hidden: &Hidden, text: &str) -> Result<Vec<u32>, RowFault> {
        let mut ids = hidden.encode(text)?;
        let Some(bos) = self.tokenizer.bos_id() else {
            return Ok(ids);
        };
        // A vocabulary may use one token for both ends; it may then stand after every turn.
        if Some(bos) != self.tokenizer.eos_id() {
            let count = ids.iter().filter(|id| **id == bos).count();
            let last = ids.iter().rposition(|id| *id == bos).unwrap_or(0);
            if last > 0 {
                return Err(RowFault::Bos { count, last });
            }
        }
        if self.tokenizer.adds_bos() && ids.first() != Some(&bos) {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    fn plain_ids(&self, mut hidden: Hidden, text: &str) -> Result<Vec<u32>, RowFault> {
        let marked = hidden.hide(text)?;
        self.prompt_ids(&hidden, &marked)
    }

    /// Prompt without loss, completion and EOS with loss.
    fn plain_row(&self, prompt: &str, completion: &str) -> Result<TokenRow, RowFault> {
        let allow = self.options.allow_control_tokens;
        let mut hidden = Hidden::new(&self.tokenizer, allow, [prompt, completion].into_iter());
        let (prompt, completion) = (hidden.hide(prompt)?, hidden.hide(completion)?);
        if completion.is_empty() {
            return Err(RowFault::NoText);
        }
        let mut ids = self.prompt_ids(&hidden, &prompt)?;
        let prompt_len = ids.len();
        ids.extend(hidden.encode(&completion)?);
        let eos = self.tokenizer.eos_id().ok_or(RowFault::NoEnd)?;
        // Data that may place control tokens may bring its own EOS.
        let ended = ids.last() == Some(&eos);
        if !ended {
            ids.push(eos);
        }
        let mut row = RowBuilder::new(format!("{prompt}{completion}"), ids, prompt_len, 0).row;
        let joint = self.prompt_ids(&hidden, &format!("{prompt}{completion}"))?;
        row.stats.joint_differs = usize::from(!row.ids.starts_with(&joint));
        let eos_text = if ended { String::new() } else { self.tokenizer.decode(&[eos], false) };
        self.check_text(&hidden, &format!("{prompt}{completion}{eos_text}"), &row.ids)?;
        Ok(row.finish())
    }

    fn chat_rows(&self, conversation: &Conversation) -> Result<Vec<TokenRow>, RowError> {
        let (template, shape) = self.chat_parts()?;
        let faults = conversation.faults();
        if !faults.is_empty() {
            return Err(RowFault::Conversation(faults).into());
        }
        let prepared = self.prepare(conversation, template, shape)?;
        let turns = Turns { prepared: &prepared, template, shape, now_unix: self.options.now_unix };
        let mut rows = Vec::new();
        let mut open: Option<RowBuilder> = None;
        let trained = conversation.messages.iter().enumerate().filter(|(_, m)| m.is_assistant() && m.train);
        for (index, _) in trained {
            let at = |fault: RowFault| RowError { row: String::new(), turn: Some(index), fault };
            let (prompt, response) = turns.turn(index, self.options.empty_think).map_err(at)?;
            let prompt_ids = self.prompt_ids(&prepared.hidden, &prompt.text).map_err(at)?;
            let response_ids = prepared.hidden.encode(&response).map_err(|e| at(e.into()))?;
            let mut builder = match open.take().map(|row| row.grown(&prompt, &prompt_ids)) {
                Some(Ok(row)) => row,
                other => {
                    if let Some(Err(done)) = other {
                        rows.push(self.close(&prepared, *done).map_err(at)?);
                    }
                    let mut row = RowBuilder::new(prompt.text.clone(), prompt_ids.clone(), prompt_ids.len(), index);
                    row.row.stats.masked_history = self.history_len(conversation, &turns, index, &prompt, &prompt_ids);
                    row
                }
            };
            let joint = self.prompt_ids(&prepared.hidden, &format!("{}{response}", prompt.text)).map_err(at)?;
            let apart = joint.strip_prefix(prompt_ids.as_slice()) != Some(response_ids.as_slice());
            builder.row.stats.joint_differs += usize::from(apart);
            builder.train(index, &response, &response_ids);
            open = Some(builder);
        }
        match open {
            Some(row) => rows.push(self.close(&prepared, row)?),
            None => return Err(RowFault::NothingToTrain.into()),
        }
        Ok(rows)
    }

    /// Tokens of the prompt that belong to turns up to the last assistant turn before `index`.
    fn history_len(
        &self,
        conversation: &Conversation,
        turns: &Turns,
        index: usize,
        prompt: &MarkedPrompt,
        ids: &[u32],
    ) -> usize {
        let before = conversation.messages.get(..index).unwrap_or_default();
        let Some(last) = before.iter().rposition(|m| m.is_assistant()) else {
            return 0;
        };
        let Ok(history) = turns.history(last, Thinking::Default) else {
            return 0;
        };
        let mut same = history.bytes().zip(prompt.text.bytes()).take_while(|(a, b)| a == b).count();
        while !prompt.text.is_char_boundary(same) {
            same -= 1;
        }
        let shown = prompt.text.get(..same).unwrap_or_default();
        let mut bytes = turns.prepared.hidden.restore(shown).len();
        // A BOS that the tokenizer adds is not in the text.
        let added = usize::from(self.tokenizer.adds_bos() && !self.starts_with_bos(&prompt.text));
        let mut tokens = 0;
        for id in ids.iter().skip(added) {
            let length = self.tokenizer.token_bytes(*id).len();
            if length > bytes {
                break;
            }
            bytes -= length;
            tokens += 1;
        }
        tokens
    }

    fn starts_with_bos(&self, text: &str) -> bool {
        self.tokenizer.bos_id().is_some_and(|id| text.as_bytes().starts_with(self.tokenizer.token_bytes(id)))
    }

    fn close(&self, prepared: &Prepared, builder: RowBuilder) -> Result<TokenRow, RowFault> {
        self.check_text(&prepared.hidden, &builder.text, &builder.row.ids)?;
        Ok(builder.row.finish())
    }

    /// The ids must read back as the text, unless the tokenizer's normaliser changes it.
    fn check_text(&self, hidden: &Hidden, marked: &str, ids: &[u32]) -> Result<(), RowFault> {
        let text = hidden.restore(marked);
        let added = usize::from(self.tokenizer.adds_bos() && !self.starts_with_bos(marked));
        let decoded = self.tokenizer.decode_bytes(ids.get(added..).unwrap_or_default(), false);
        if decoded == text.as_bytes() || self.tokenizer.normalizes(&text) {
            return Ok(());
        }
        let same = decoded.iter().zip(text.as_bytes()).take_while(|(a, b)| a == b).count();
        let cut = |bytes: &[u8]| {
            let from = same.saturating_sub(10).min(bytes.len());
            let to = (same + 20).min(bytes.len());
            String::from_utf8_lossy(bytes.get(from..to).unwrap_or_default()).into_owned()
        };
        Err(RowFault::RoundTrip { text: cut(text.as_bytes()), decoded: cut(&decoded) })
    }
}
