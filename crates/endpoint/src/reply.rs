//! Replies as typed values: whole ones and pieces of streams, in every spelling servers use.

use serde_json::Value;

use crate::Trouble;

/// A token with its log-probability, where the server gives it.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// Text of the token.
    pub token: String,
    /// Natural log-probability.
    pub logprob: f64,
    /// Log-probabilities of the best tokens at this place, in the order given.
    pub top: Vec<f64>,
}

/// Part of a reply.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Piece {
    /// More of the chain of thought (`reasoning_content`, or `reasoning`).
    pub reasoning: String,
    /// More of the answer.
    pub content: String,
    /// Tokens of this piece.
    pub logprobs: Vec<TokenLogprob>,
}

/// A reply.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// Chain of thought, where the server keeps it apart.
    pub reasoning: String,
    /// The answer.
    pub content: String,
    /// `stop`, `length`, …
    pub finish_reason: Option<String>,
    /// Tokens read.
    pub prompt_tokens: Option<u64>,
    /// Tokens written, reasoning included.
    pub completion_tokens: Option<u64>,
    /// Tokens with log-probabilities, where asked for and given.
    pub logprobs: Vec<TokenLogprob>,
}

impl Reply {
    /// Takes a piece.
    pub(crate) fn absorb(&mut self, piece: &Piece) {
        self.reasoning.push_str(&piece.reasoning);
        self.content.push_str(&piece.content);
        self.logprobs.extend(piece.logprobs.iter().cloned());
    }

    /// Takes what stands beside the text: finish reason and token counts.
    pub(crate) fn note(&mut self, value: &Value) {
        if let Some(reason) = first_choice(value).and_then(|c| c.get("finish_reason")).and_then(Value::as_str) {
            self.finish_reason = Some(reason.to_owned());
        }
        let count = |name: &str| value.pointer(&format!("/usage/{name}")).and_then(Value::as_u64);
        self.prompt_tokens = count("prompt_tokens").or(self.prompt_tokens);
        self.completion_tokens = count("completion_tokens").or(self.completion_tokens);
    }
}

/// The choice with index 0: a server that was asked for one and gives more has only one counted.
fn first_choice(value: &Value) -> Option<&Value> {
    let choices = value.get("choices")?.as_array()?;
    choices.iter().find(|c| c.get("index").and_then(Value::as_u64).unwrap_or(0) == 0)
}

/// The piece in a whole reply (`message`) or an event of a stream (`delta`); nothing in an event
/// without a choice, such as the last one with the token counts.
///
/// # Errors
/// An error object, or a reply in another form.
pub(crate) fn piece(value: &Value, field: &str) -> Result<Option<Piece>, Trouble> {
    let shown: String = value.to_string().chars().take(200).collect();
    if let Some(error) = value.get("error").filter(|e| !e.is_null()) {
        let message = error.get("message").and_then(Value::as_str).map_or_else(|| error.to_string(), str::to_owned);
        return Err(Trouble::Malformed(format!("the server reports: {message}")));
    }
    let choices = value.get("choices").and_then(Value::as_array);
    let choices = choices.ok_or_else(|| Trouble::Malformed(format!("no `choices`: {shown}")))?;
    if choices.is_empty() && field == "delta" {
        return Ok(None);
    }
    let Some(choice) = first_choice(value) else {
        // another choice than the one that was asked for
        return if choices.is_empty() {
            Err(Trouble::Malformed(format!("no `choices[0].{field}.content`: {shown}")))
        } else {
            Ok(None)
        };
    };
    let said = choice.get(field).and_then(Value::as_object);
    let said = said.ok_or_else(|| Trouble::Malformed(format!("no `choices[0].{field}`: {shown}")))?;
    let text = |name: &str| match said.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(other) => Err(Trouble::Malformed(format!("`{name}` is no text: {other}"))),
    };
    let reasoning = match text("reasoning_content")? {
        Some(text) if !text.is_empty() => Some(text),
        other => text("reasoning")?.or(other),
    };
    let content = text("content")?;
    if field == "message" && content.is_none() && reasoning.is_none() {
        return Err(Trouble::Malformed(format!("no `choices[0].message.content`: {shown}")));
    }
    let logprobs = choice.pointer("/logprobs/content").and_then(Value::as_array);
    Ok(Some(Piece {
        reasoning: reasoning.unwrap_or_default(),
        content: content.unwrap_or_default(),
        logprobs: logprobs.into_iter().flatten().filter_map(token).collect(),
    }))
}

fn token(value: &Value) -> Option<TokenLogprob> {
    let number = |v: &Value| v.get("logprob").and_then(Value::as_f64);
    Some(TokenLogprob {
        token: value.get("token")?.as_str()?.to_owned(),
        logprob: number(value)?,
        top: value.get("top_logprobs").and_then(Value::as_array).into_iter().flatten().filter_map(number).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_names_of_reasoning_are_read_and_errors_are_errors() {
        for name in ["reasoning_content", "reasoning"] {
            let value = json!({"choices": [{"index": 0, "message": {"content": null, name: "because"}}]});
            let piece = piece(&value, "message").unwrap().unwrap();
            assert_eq!((piece.reasoning.as_str(), piece.content.as_str()), ("because", ""));
        }
        assert_eq!(piece(&json!({"choices": []}), "delta"), Ok(None));
        for bad in [
            json!({"error": {"message": "loading"}}),
            json!({"choices": []}),
            json!({"choices": [{"message": {"content": 3}}]}),
            json!({"choices": [{"message": {}}]}),
            json!({"choices": [{"index": 0}]}),
            json!("text"),
        ] {
            assert!(matches!(piece(&bad, "message"), Err(Trouble::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn only_the_choice_asked_for_counts() {
        let value = json!({"choices": [{"index": 1, "delta": {"content": "b"}}]});
        assert_eq!(piece(&value, "delta"), Ok(None));
        let value =
            json!({"choices": [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]});
        assert_eq!(piece(&value, "message").unwrap().unwrap().content, "a");
    }
}
