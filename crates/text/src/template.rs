//! Chat templates, rendered as `transformers` renders them.
//!
//! Takes Jinja text from a checkpoint or one of the built-in templates, and messages, gives the
//! exact text. Bounded in steps and output, without files, network or clock. Never edits a
//! template and never tokenizes.

use crate::conversation::{Conversation, Message};
use crate::environment::{MAX_OUTPUT, build_environment};
use crate::facts::token_string;
use minijinja::Environment;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a template could not be read or rendered.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The file cannot be opened.
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the wrong form.
    #[error("`{file}`: {reason}")]
    Form {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The Jinja text does not compile.
    #[error("chat template `{template}`, line {line}: {reason}")]
    Syntax {
        /// Where the template comes from.
        template: String,
        /// Line in the template.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The template fails on these messages, by its own `raise_exception` or otherwise.
    #[error("chat template `{template}`, line {line}: {reason}")]
    Render {
        /// Where the template comes from.
        template: String,
        /// Line in the template.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// No built-in template of that name.
    #[error("no built-in chat template `{name}`; there are: {}", crate::builtin::NAMES.join(", "))]
    UnknownBuiltin {
        /// As asked for.
        name: String,
    },
}

/// One rendering: what `apply_chat_template` gets.
#[derive(Clone, Debug, Default)]
pub struct RenderRequest {
    /// Messages as the template sees them.
    pub messages: Vec<Value>,
    /// `tools`; absent is `none`.
    pub tools: Option<Value>,
    /// `add_generation_prompt`.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking`.
    pub kwargs: Map<String, Value>,
    /// The moment that `strftime_now` tells, in seconds since 1970 UTC; without it a template that
    /// asks for the clock fails, because training and serving would render differently.
    pub now_unix: Option<u64>,
}

impl RenderRequest {
    /// The conversation as it stands.
    pub fn of(conversation: &Conversation, add_generation_prompt: bool) -> Self {
        RenderRequest {
            messages: conversation.messages.iter().map(message_value).collect(),
            tools: conversation.tools.clone(),
            add_generation_prompt,
            kwargs: conversation.template_kwargs.clone(),
            now_unix: None,
        }
    }
}

/// A message in OpenAI's form, absent fields left out.
pub(crate) fn message_value(message: &Message) -> Value {
    let mut map = Map::new();
    map.insert("role".into(), json!(message.role));
    map.insert("content".into(), json!(message.content));
    if let Some(reasoning) = &message.reasoning_content {
        map.insert("reasoning_content".into(), json!(reasoning));
    }
    if !message.tool_calls.is_empty() {
        map.insert("tool_calls".into(), json!(message.tool_calls));
    }
    if let Some(id) = &message.tool_call_id {
        map.insert("tool_call_id".into(), json!(id));
    }
    if let Some(name) = &message.name {
        map.insert("name".into(), json!(name));
    }
    Value::Object(map)
}

/// A compiled chat template. Cheap to clone and safe to share between threads.
#[derive(Clone)]
pub struct ChatTemplate(Arc<Compiled>);

struct Compiled {
    /// Where it comes from: a file name or `builtin:NAME`.
    origin: String,
    sources: BTreeMap<String, String>,
    environment: Environment<'static>,
    /// `bos_token`, `eos_token`, `pad_token`, `unk_token`.
    tokens: Map<String, Value>,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ChatTemplate").field(&self.0.origin).finish()
    }
}

/// Name of the only or main template.
const DEFAULT: &str = "default";
/// Name that checkpoints give to the template for requests with tools.
const TOOL_USE: &str = "tool_use";

impl ChatTemplate {
    /// The checkpoint's own template: `chat_template.jinja`, else `chat_template` in
    /// `tokenizer_config.json` (text, or a list of `{name, template}`); `None` when it has none.
    pub fn from_dir(dir: &Path) -> Result<Option<Self>, TemplateError> {
        let read = |name: &str| -> Result<Option<Vec<u8>>, TemplateError> {
            let path = dir.join(name);
            match std::fs::read(&path) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(TemplateError::Io { path, source }),
            }
        };
        Self::from_parts(read("chat_template.jinja")?.as_deref(), read("tokenizer_config.json")?.as_deref())
    }

    /// As [`ChatTemplate::from_dir`], from bytes of `chat_template.jinja` and `tokenizer_config.json`.
    pub fn from_parts(jinja: Option<&[u8]>, config: Option<&[u8]>) -> Result<Option<Self>, TemplateError> {
        let file = "tokenizer_config.json";
        let form = |file: &str, reason: String| TemplateError::Form { file: file.into(), reason };
        let config: Value = match config {
            Some(bytes) => serde_json::from_slice(bytes).map_err(|e| form(file, e.to_string()))?,
            None => Value::Null,
        };
        let mut tokens = Map::new();
        for name in ["bos_token", "eos_token", "pad_token", "unk_token"] {
            if let Some(token) = token_string(config.get(name)) {
                tokens.insert(name.into(), Value::String(token));
            }
        }
        if let Some(bytes) = jinja {
            let name = "chat_template.jinja";
            let text = std::str::from_utf8(bytes).map_err(|e| form(name, e.to_string()))?;
            return Self::compile(name, [(DEFAULT.into(), text.into())].into(), tokens).map(Some);
        }
        match config.get("chat_template") {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Self::compile(file, [(DEFAULT.into(), text.clone())].into(), tokens).map(Some),
            Some(Value::Array(list)) => {
                let mut sources = BTreeMap::new();
                for (i, entry) in list.iter().enumerate() {
                    let field = |key: &str| entry.get(key).and_then(Value::as_str);
                    let (Some(name), Some(text)) = (field("name"), field("template")) else {
                        return Err(form(file, format!("chat_template[{i}] needs `name` and `template` as text")));
                    };
                    sources.insert(name.to_string(), text.to_string());
                }
                if !sources.contains_key(DEFAULT) {
                    return Err(form(file, "chat_template has no entry named `default`".into()));
                }
                Self::compile(file, sources, tokens).map(Some)
            }
            Some(_) => Err(form(file, "chat_template is neither text nor a list of {name, template}".into())),
        }
    }

    /// Jinja text with its BOS and EOS strings (empty when the model has none).
    pub fn from_source(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        Self::named("template", source, bos, eos)
    }

    pub(crate) fn named(origin: &str, source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        let mut tokens = Map::new();
        tokens.insert("bos_token".into(), json!(bos));
        tokens.insert("eos_token".into(), json!(eos));
        Self::compile(origin, [(DEFAULT.into(), source.into())].into(), tokens)
    }

    fn compile(
        origin: &str,
        sources: BTreeMap<String, String>,
        tokens: Map<String, Value>,
    ) -> Result<Self, TemplateError> {
        let environment = build_environment(&sources).map_err(|e| TemplateError::Syntax {
            template: origin.into(),
            line: e.line().unwrap_or(0),
            reason: reason(&e),
        })?;
        Ok(ChatTemplate(Arc::new(Compiled { origin: origin.into(), sources, environment, tokens })))
    }

    /// Renders; gives exactly the text Jinja2 gives under `transformers`, or an error where the
    /// template fails, runs out of steps or writes too much.
    pub fn render(&self, request: &RenderRequest) -> Result<String, TemplateError> {
        let compiled = &self.0;
        let with_tools = request.tools.as_ref().is_some_and(|t| !t.is_null());
        let name = if with_tools && compiled.sources.contains_key(TOOL_USE) { TOOL_USE } else { DEFAULT };
        let mut context = request.kwargs.clone();
        context.extend(compiled.tokens.iter().map(|(k, v)| (k.clone(), v.clone())));
        context.insert("messages".into(), Value::Array(request.messages.clone()));
        context.insert("tools".into(), request.tools.clone().unwrap_or(Value::Null));
        context.entry("documents").or_insert(Value::Null);
        context.insert("add_generation_prompt".into(), Value::Bool(request.add_generation_prompt));
        match request.now_unix {
            Some(now) => context.insert(crate::environment::NOW.into(), json!(now)),
            None => context.remove(crate::environment::NOW),
        };
        let fail = |e: minijinja::Error| TemplateError::Render {
            template: compiled.origin.clone(),
            line: e.line().unwrap_or(0),
            reason: reason(&e),
        };
        let template = compiled.environment.get_template(name).map_err(fail)?;
        let mut sink = Sink(Vec::new());
        template.render_captured_to(minijinja::Value::from_serialize(&context), &mut sink).map_err(fail)?;
        String::from_utf8(sink.0)
            .map_err(|e| TemplateError::Form { file: compiled.origin.clone(), reason: e.to_string() })
    }

    /// Jinja text of the main template.
    pub fn source(&self) -> &str {
        self.0.sources.get(DEFAULT).map_or("", String::as_str)
    }

    /// Where the template comes from: file name or `builtin:NAME`.
    pub fn origin(&self) -> &str {
        &self.0.origin
    }

    /// Whether the template itself writes the BOS string in front.
    pub fn writes_bos(&self) -> bool {
        let bos = self.0.tokens.get("bos_token").and_then(Value::as_str).unwrap_or("");
        let request = RenderRequest {
            messages: vec![json!({"role": "user", "content": "x"})],
            add_generation_prompt: true,
            ..RenderRequest::default()
        };
        !bos.is_empty() && self.render(&request).is_ok_and(|text| text.starts_with(bos))
    }
}

/// The error with the causes that minijinja keeps apart.
fn reason(e: &minijinja::Error) -> String {
    let mut text = e.detail().map_or_else(|| e.kind().to_string(), str::to_string);
    let mut source = std::error::Error::source(e);
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// Collects output up to [`MAX_OUTPUT`].
struct Sink(Vec<u8>);

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::other(format!("template writes more than {MAX_OUTPUT} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
