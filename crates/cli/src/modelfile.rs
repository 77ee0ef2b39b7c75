//! An Ollama Modelfile whose template renders what the checkpoint's own template renders.
//!
//! Takes a template, derives its turn markers by rendering conversations with known contents, and
//! gives Go template text that is checked against the original on further conversations before it is
//! used. Where the original is not of that form, it says so and leaves the template out.

use loar_decode::Sampling;
use loar_text::{ChatTemplate, RenderRequest};
use serde_json::{Value, json};

/// Contents that no template contains.
const S: &str = "sYsTeM\u{2042}1";
const U: [&str; 3] = ["uSeR\u{2042}1", "uSeR\u{2042}2", "uSeR\u{2042}3"];
const A: [&str; 2] = ["aNsWeR\u{2042}1", "aNsWeR\u{2042}2"];

/// What stands around the contents of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Markers {
    /// Before everything, BOS included.
    start: String,
    /// Around the system message.
    system: (String, String),
    /// Before a user message.
    user: String,
    /// From a user message to the answer that follows it in the history.
    to_history: String,
    /// From the last user message to where the model continues.
    to_generate: String,
    /// From an answer in the history to the next user message's marker.
    end: String,
}

fn message(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn render(template: &ChatTemplate, messages: Vec<Value>) -> Option<String> {
    let request = RenderRequest { messages, add_generation_prompt: true, ..RenderRequest::default() };
    template.render(&request).ok()
}

impl Markers {
    /// The markers of `template`, whose BOS string is `bos`; `None` when it is not made of turns
    /// with fixed markers.
    pub fn of(template: &ChatTemplate, bos: &str) -> Option<Self> {
        let one = render(template, vec![message("user", U[0])])?;
        let (head, to_generate) = one.split_once(U[0])?;
        let two = render(template, vec![message("user", U[0]), message("assistant", A[0]), message("user", U[1])])?;
        let (_, rest) = two.split_once(U[0])?;
        let (to_history, rest) = rest.split_once(A[0])?;
        let (between, _) = rest.split_once(U[1])?;
        let with_system = render(template, vec![message("system", S), message("user", U[0])])?;
        let (system_head, rest) = with_system.split_once(S)?;
        let (after_system, _) = rest.split_once(U[0])?;
        // What is common to every user turn is its marker; the rest of the head is the start.
        let user = common_end(&common_end(head, between), after_system);
        let start = if head.starts_with(bos) { bos } else { "" };
        if head.strip_suffix(user.as_str()) != Some(start) {
            return None; // a default system message or the like
        }
        let this = Self {
            start: start.to_owned(),
            system: (system_head.strip_prefix(start)?.to_owned(), after_system.strip_suffix(user.as_str())?.to_owned()),
            to_history: to_history.to_owned(),
            to_generate: to_generate.to_owned(),
            end: between.strip_suffix(user.as_str())?.to_owned(),
            user,
        };
        this.reproduces(template).then_some(this)
    }

    /// Whether further conversations come out as the template has them.
    fn reproduces(&self, template: &ChatTemplate) -> bool {
        let turns = |n: usize| -> Vec<(&str, &str)> {
            let mut all = vec![("user", U[0])];
            for i in 1..n {
                all.push(("assistant", A[i - 1]));
                all.push(("user", U[i]));
            }
            all
        };
        (1..=3).all(|n| {
            [false, true].into_iter().all(|system| {
                let mut list = if system { vec![("system", S)] } else { vec![] };
                list.extend(turns(n));
                let messages = list.iter().map(|(r, c)| message(r, c)).collect();
                render(template, messages).is_some_and(|text| text == self.assemble(&list))
            })
        })
    }

    /// What the Go template of [`Markers::go`] makes of a conversation that ends with a user turn.
    fn assemble(&self, turns: &[(&str, &str)]) -> String {
        let mut out = self.start.clone();
        for (i, (role, content)) in turns.iter().enumerate() {
            let last = i + 1 == turns.len();
            match *role {
                "system" => out.extend([self.system.0.as_str(), content, &self.system.1]),
                "user" => {
                    out.extend([self.user.as_str(), content, if last { &self.to_generate } else { &self.to_history }])
                }
                _ => out.extend([*content, &self.end]),
            }
        }
        out
    }

    /// The template in Go's language. `adds_bos`: the program puts BOS in front by itself.
    pub fn go(&self, adds_bos: bool) -> String {
        let mark = |text: &str| {
            if text.is_empty() { String::new() } else { format!("{{{{ {} }}}}", go_string(text)) }
        };
        let start = if adds_bos { String::new() } else { mark(&self.start) };
        format!(
            "{start}{{{{- range $i, $m := .Messages }}}}{{{{- $last := eq (len (slice $.Messages $i)) 1 }}}}\
             {{{{- if eq $m.Role \"system\" }}}}{}{{{{ $m.Content }}}}{}\
             {{{{- else if eq $m.Role \"user\" }}}}{}{{{{ $m.Content }}}}{{{{ if $last }}}}{}{{{{ else }}}}{}{{{{ end }}}}\
             {{{{- else if eq $m.Role \"assistant\" }}}}{{{{ $m.Content }}}}{{{{ if not $last }}}}{}{{{{ end }}}}\
             {{{{- end }}}}{{{{- end }}}}",
            mark(&self.system.0),
            mark(&self.system.1),
            mark(&self.user),
            mark(&self.to_generate),
            mark(&self.to_history),
            mark(&self.end),
        )
    }
}

/// The longest common end of two texts.
fn common_end(a: &str, b: &str) -> String {
    let mut at = a.len();
    for (x, y) in a.char_indices().rev().zip(b.chars().rev()) {
        if x.1 != y {
            break;
        }
        at = x.0;
    }
    a[at..].to_owned()
}

/// A Go string literal: markers end in line breaks that `{{-` would otherwise eat.
fn go_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What goes into a Modelfile.
pub struct Modelfile<'a> {
    /// Folder or GGUF file, relative to the Modelfile.
    pub from: &'a str,
    /// The checkpoint's template, if there is one, and its BOS string.
    pub template: Option<(&'a ChatTemplate, &'a str)>,
    /// The program puts BOS in front by itself.
    pub adds_bos: bool,
    /// Sampling of the checkpoint.
    pub sampling: &'a Sampling,
    /// Texts of the end tokens.
    pub stops: Vec<String>,
}

impl Modelfile<'_> {
    /// The text, and whether it has a template that renders as the checkpoint's own does.
    pub fn render(&self) -> (String, bool) {
        let mut out = String::from(
            "# Ollama imports safetensors of some architectures only. For the others, convert this folder with llama.cpp's\n\
             # convert_hf_to_gguf.py and name the GGUF file after FROM.\n",
        );
        out.push_str(&format!("FROM {}\n", self.from));
        let markers = self.template.and_then(|(t, bos)| Markers::of(t, bos));
        let go = markers.map(|m| m.go(self.adds_bos)).filter(|t| !t.contains("\"\"\""));
        match &go {
            Some(go) => out.push_str(&format!("TEMPLATE \"\"\"{go}\"\"\"\n")),
            None => out.push_str(
                "# No TEMPLATE: the checkpoint's template is not made of turns with fixed markers. Write one, or ask through\n\
                 # /api/generate with raw: true and a rendered prompt.\n",
            ),
        }
        let s = self.sampling;
        out.push_str(&format!("PARAMETER temperature {}\n", s.temperature));
        if s.top_p < 1.0 {
            out.push_str(&format!("PARAMETER top_p {}\n", s.top_p));
        }
        if s.top_k > 0 {
            out.push_str(&format!("PARAMETER top_k {}\n", s.top_k));
        }
        if s.min_p > 0.0 {
            out.push_str(&format!("PARAMETER min_p {}\n", s.min_p));
        }
        for stop in self.stops.iter().filter(|s| !s.is_empty()) {
            out.push_str(&format!("PARAMETER stop {}\n", go_string(stop)));
        }
        (out, go.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn markers(name: &str) -> Option<Markers> {
        let template = ChatTemplate::builtin(name).expect("a built-in template");
        Markers::of(&template, "<｜begin▁of▁sentence｜>")
    }

    #[test]
    fn built_in_templates_of_fixed_turns_are_derived() {
        let m = markers("v3").expect("fixed markers");
        assert_eq!(m.user, "<｜User｜>");
        assert_eq!(m.to_generate, "<｜Assistant｜>");
        assert_eq!(m.end, "<｜end▁of▁sentence｜>");
        let r1 = markers("r1").expect("fixed markers");
        assert!(r1.to_generate.ends_with("<think>\n"), "{r1:?}");
        assert_eq!(r1.to_history, "<｜Assistant｜>");
    }

    #[test]
    fn a_default_system_message_is_not_guessed_away() {
        let source = "{% if messages[0].role != 'system' %}[sys]You help.[/sys]{% endif %}\
            {% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[assistant]";
        let template = ChatTemplate::from_source(source, "", "").expect("valid");
        assert_eq!(Markers::of(&template, ""), None);
    }

    #[test]
    fn markers_are_go_literals() {
        let source = "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}\"\\</>\n{% endfor %}<assistant>\n";
        let template = ChatTemplate::from_source(source, "", "").expect("valid");
        let go = Markers::of(&template, "").expect("fixed markers").go(true);
        assert!(go.contains(r#"{{ "<user>\n" }}"#), "{go}");
        assert!(go.contains(r#"{{ "\"\\</>\n<assistant>\n" }}"#), "{go}");
    }

    #[test]
    fn a_template_that_counts_turns_is_left_out() {
        let source = "{% for m in messages %}{{ loop.index }}:{{ m.content }};{% endfor %}";
        let template = ChatTemplate::from_source(source, "", "").expect("valid");
        let file = Modelfile {
            from: ".",
            template: Some((&template, "")),
            adds_bos: true,
            sampling: &Sampling::default(),
            stops: vec!["<END>".into()],
        };
        let (text, has_template) = file.render();
        assert!(!has_template);
        assert!(text.contains("\nFROM .\n# No TEMPLATE"), "{text}");
        assert!(text.contains("PARAMETER temperature 0\n") && text.contains("PARAMETER stop \"<END>\"\n"));
    }
}
