//! Tool calls in the forms that models write.
//!
//! Takes the text between the tags of a call, gives name and arguments, or nothing where the form
//! is another. Never checks arguments against a declaration.

use serde_json::value::RawValue;

/// Separates type or name from what follows, in DeepSeek's forms.
pub(crate) const SEP: &str = "<｜tool▁sep｜>";

/// A tool call as the model wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// Function name.
    pub name: String,
    /// Arguments: JSON text, as written.
    pub arguments: String,
}

/// `{"name": …, "arguments": …}`.
pub(crate) fn json_call(body: &str) -> Option<ToolCall> {
    #[derive(serde::Deserialize)]
    struct Call<'a> {
        name: String,
        #[serde(borrow)]
        arguments: &'a RawValue,
    }
    let call: Call = serde_json::from_str(body.trim()).ok()?;
    let raw = call.arguments.get();
    // Some models write the arguments as JSON text inside a string.
    let arguments = serde_json::from_str::<String>(raw).unwrap_or_else(|_| raw.to_string());
    Some(ToolCall { name: call.name, arguments })
}

/// `function<｜tool▁sep｜>NAME\n```json\nARGS\n```` of V3 and R1, or `NAME<｜tool▁sep｜>ARGS` of V3.1.
pub(crate) fn deepseek_call(body: &str) -> Option<ToolCall> {
    let (before, after) = body.split_once(SEP)?;
    let fenced = after.split_once("\n```json\n").and_then(|(name, rest)| Some((name, rest.strip_suffix("\n```")?)));
    let (name, arguments) = fenced.unwrap_or((before, after));
    let name = name.trim();
    (!name.is_empty()).then(|| ToolCall { name: name.to_string(), arguments: arguments.trim().to_string() })
}
