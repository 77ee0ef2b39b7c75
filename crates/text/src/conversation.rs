//! One conversation as data gives it: messages with roles, tools, template arguments.
//!
//! Takes JSON bytes or values, gives typed messages and the list of everything wrong with their
//! roles. Never renders and never tokenizes.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Roles the templates of the DeepSeek and Qwen families know.
pub const ROLES: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// One turn. `reasoning_content` is the chain of thought of an assistant turn when the data keeps
/// it apart; an inline `<think>…</think>` at the head of `content` is understood as well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawMessage")]
pub struct Message {
    /// One of [`ROLES`].
    pub role: String,
    /// Text of the turn; empty for an assistant turn that only calls tools.
    pub content: String,
    /// Chain of thought, without `<think>` tags.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// OpenAI tool calls: `{"id", "type", "function": {"name", "arguments"}}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<Value>,
    /// On a `tool` turn: the call it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Name of the speaker or tool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whether the turn carries loss; by default true for assistant turns and false for others.
    pub train: bool,
}

/// The message as files spell it.
#[derive(Deserialize)]
struct RawMessage {
    role: String,
    #[serde(default)]
    content: Option<RawContent>,
    #[serde(default, alias = "reasoning", alias = "thinking")]
    reasoning_content: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<Value>>,
    #[serde(default)]
    tool_call_id: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    train: Option<bool>,
    /// OpenAI's fine-tuning files mark untrained assistant turns with `weight: 0`.
    #[serde(default)]
    weight: Option<f64>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawContent {
    Text(String),
    Parts(Vec<RawPart>),
}

#[derive(Deserialize)]
struct RawPart {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
}

impl TryFrom<RawMessage> for Message {
    type Error = String;
    fn try_from(raw: RawMessage) -> Result<Self, String> {
        let content = match raw.content {
            None => String::new(),
            Some(RawContent::Text(text)) => text,
            Some(RawContent::Parts(parts)) => {
                let mut joined = String::new();
                for part in parts {
                    match (part.kind.as_str(), part.text) {
                        ("text", Some(text)) => joined.push_str(&text),
                        (kind, _) => {
                            return Err(format!(
                                "content part of type `{kind}` is not text; only `text` parts can be trained on"
                            ));
                        }
                    }
                }
                joined
            }
        };
        let train = match (raw.train, raw.weight) {
            (Some(train), _) => train,
            (None, Some(0.0)) => false,
            (None, Some(1.0)) => raw.role == "assistant",
            (None, Some(weight)) => {
                return Err(format!("weight `{weight}` is neither 0 nor 1; drop the field or write `train`"));
            }
            (None, None) => raw.role == "assistant",
        };
        Ok(Message {
            role: raw.role,
            content,
            reasoning_content: raw.reasoning_content,
            tool_calls: raw.tool_calls.unwrap_or_default(),
            tool_call_id: raw.tool_call_id,
            name: raw.name,
            train,
        })
    }
}

impl Message {
    /// A turn with text only; `train` is true for the assistant.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        let role = role.into();
        Message {
            train: role == "assistant",
            role,
            content: content.into(),
            reasoning_content: None,
            tool_calls: Vec::new(),
            tool_call_id: None,
            name: None,
        }
    }
    /// A system turn.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }
    /// A user turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }
    /// A trained assistant turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
    /// An assistant turn with its chain of thought.
    pub fn with_reasoning(mut self, reasoning: impl Into<String>) -> Self {
        self.reasoning_content = Some(reasoning.into());
        self
    }
    /// True for the role that the model speaks in.
    pub fn is_assistant(&self) -> bool {
        self.role == "assistant"
    }
}

/// A conversation with the arguments its template gets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// Turns in order.
    pub messages: Vec<Message>,
    /// Tool declarations (OpenAI list), as the template's `tools`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
    /// Further template variables, such as `thinking` or `enable_thinking`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub template_kwargs: Map<String, Value>,
}

/// What a training example is made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// A conversation: assistant turns carry loss.
    Chat(Conversation),
    /// A prompt without loss and a completion with loss, no template.
    Completion {
        /// Fed, not trained.
        prompt: String,
        /// Trained, followed by the end token.
        completion: String,
    },
    /// Plain text: every token carries loss.
    Text(String),
}

/// What can be wrong with a conversation.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConversationError {
    /// Not JSON, or fields of the wrong type.
    #[error("conversation is not readable: {reason}")]
    Json {
        /// serde's words, with line and column.
        reason: String,
    },
    /// No turns at all.
    #[error("conversation has no messages; give at least one user turn")]
    Empty,
    /// A role that no template knows.
    #[error("message {index} has role `{role}`; use one of system, developer, user, assistant, tool")]
    UnknownRole {
        /// Position in `messages`.
        index: usize,
        /// As written.
        role: String,
    },
    /// A tool result without a call.
    #[error("message {index} is a tool result, but no assistant turn with tool_calls stands before it")]
    ToolWithoutCall {
        /// Position in `messages`.
        index: usize,
    },
    /// Loss asked for on a turn that the model does not speak.
    #[error("message {index} has role `{role}` and train = true; only assistant turns can be trained")]
    TrainedRole {
        /// Position in `messages`.
        index: usize,
        /// As written.
        role: String,
    },
    /// Reasoning or calls on a turn that the model does not speak.
    #[error("message {index} has role `{role}` and `{field}`; only assistant turns have it")]
    AssistantField {
        /// Position in `messages`.
        index: usize,
        /// As written.
        role: String,
        /// `reasoning_content` or `tool_calls`.
        field: &'static str,
    },
    /// A trained turn without anything to learn.
    #[error(
        "message {index} is an assistant turn without content, reasoning or tool calls; fill it or set train = false"
    )]
    EmptyAssistant {
        /// Position in `messages`.
        index: usize,
    },
}

impl Conversation {
    /// Reads `{"messages": […], …}` or a bare list of messages.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConversationError> {
        let fault = |e: serde_json::Error| ConversationError::Json { reason: e.to_string() };
        let value: Value = serde_json::from_slice(bytes).map_err(fault)?;
        if value.is_array() {
            let messages = serde_json::from_value(value).map_err(fault)?;
            return Ok(Conversation { messages, ..Conversation::default() });
        }
        serde_json::from_value(value).map_err(fault)
    }

    /// Everything wrong with the roles, in order of the messages; empty when all is well.
    pub fn faults(&self) -> Vec<ConversationError> {
        let mut faults = Vec::new();
        if self.messages.is_empty() {
            faults.push(ConversationError::Empty);
        }
        let mut calls_open = false;
        for (index, message) in self.messages.iter().enumerate() {
            let role = message.role.clone();
            if !ROLES.contains(&message.role.as_str()) {
                faults.push(ConversationError::UnknownRole { index, role });
                continue;
            }
            match message.role.as_str() {
                "assistant" => {
                    calls_open = !message.tool_calls.is_empty();
                    let silent = message.content.is_empty()
                        && message.tool_calls.is_empty()
                        && message.reasoning_content.as_deref().unwrap_or("").is_empty();
                    if message.train && silent {
                        faults.push(ConversationError::EmptyAssistant { index });
                    }
                    continue;
                }
                "tool" if !calls_open => faults.push(ConversationError::ToolWithoutCall { index }),
                "tool" => {}
                _ => calls_open = false,
            }
            if message.train {
                faults.push(ConversationError::TrainedRole { index, role: role.clone() });
            }
            if message.reasoning_content.is_some() {
                faults.push(ConversationError::AssistantField {
                    index,
                    role: role.clone(),
                    field: "reasoning_content",
                });
            }
            if !message.tool_calls.is_empty() {
                faults.push(ConversationError::AssistantField { index, role, field: "tool_calls" });
            }
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openai_forms_are_read() {
        let text = r#"{"messages":[
            {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
            {"role":"assistant","content":null,"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},
            {"role":"tool","content":"1","tool_call_id":"c"},
            {"role":"assistant","content":"x","weight":0},
            {"role":"assistant","content":"y","reasoning_content":"r"}]}"#;
        let c = Conversation::from_json(text.as_bytes()).unwrap();
        assert_eq!(c.messages[0].content, "ab");
        assert_eq!(c.messages[1].content, "");
        let train: Vec<bool> = c.messages.iter().map(|m| m.train).collect();
        assert_eq!(train, [false, true, false, false, true]);
        assert_eq!(c.messages[4].reasoning_content.as_deref(), Some("r"));
        assert!(c.faults().is_empty(), "{:?}", c.faults());
        let back: Conversation = serde_json::from_str(&serde_json::to_string(&c).unwrap()).unwrap();
        assert_eq!(back, c);
    }

    #[test]
    fn images_and_odd_weights_are_refused_by_name() {
        let image = r#"[{"role":"user","content":[{"type":"image_url"}]}]"#;
        assert!(Conversation::from_json(image.as_bytes()).unwrap_err().to_string().contains("`image_url`"));
        let weight = r#"[{"role":"assistant","content":"a","weight":0.5}]"#;
        assert!(Conversation::from_json(weight.as_bytes()).unwrap_err().to_string().contains("`0.5`"));
    }

    #[test]
    fn all_role_faults_come_at_once() {
        let mut user = Message::user("u").with_reasoning("r");
        user.train = true;
        let c = Conversation {
            messages: vec![Message::new("tool", "1"), user, Message::new("bot", "b"), Message::assistant("")],
            ..Conversation::default()
        };
        let faults = c.faults();
        assert_eq!(faults.len(), 5, "{faults:?}");
        assert_eq!(Conversation::default().faults(), [ConversationError::Empty]);
    }
}
