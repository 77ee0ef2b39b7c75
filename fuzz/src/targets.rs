//! The fuzz targets: every reader of bytes that nobody vouches for, with what must hold of whatever
//! it accepts.
//!
//! Takes bytes, gives whether they were accepted. A panic is a fault: of the reader, or of one of
//! the laws asserted here. Included by the libFuzzer binaries and by the short run in CI
//! (`crates/cli/tests/fuzz_smoke.rs`). Touches no file but small ones in the temporary folder, for
//! the readers that map files.

use std::path::{Path, PathBuf};

use loar_artifact::ContentId;
use loar_data::stream::{self, Flow};
use loar_data::{DataError, OnBadRow, ReadOptions, read, read_bytes};
use loar_formats::config::ModelConfig;
use loar_formats::generation::GenerationConfig;
use loar_formats::names::{component_of, expected_tensors, is_mtp, parameters};
use loar_formats::peft::{self, AdapterConfig, format_key, parse_key};
use loar_formats::safetensors::{Checkpoint, DType, TensorOut, encode, parse_header, parse_index};
use loar_reason::answer::{Answer, EqualOptions, ExtractOptions, Kind, equal, extract};
use loar_text::{ChatTemplate, Conversation, Message, Parsed, RenderRequest, Special, StreamParser, Tokenizer};
use serde_json::json;

/// One reader under test.
pub struct Target {
    /// Name of the binary and of the folder of seeds.
    pub name: &'static str,
    /// Reads; true when the bytes were accepted.
    pub run: fn(&[u8]) -> bool,
    /// Bytes that one input of at most 64 KiB may have allocated at any moment.
    pub memory: usize,
}

const MIB: usize = 1 << 20;

/// All targets. Memory: what a reader may keep for the largest accepted thing of 64 KiB, with room;
/// a config may name 131 072 experts, a template may write 64 MiB, packed data are bounded from
/// 64 MiB on.
pub const TARGETS: [Target; 13] = [
    Target { name: "safetensors", run: safetensors, memory: 64 * MIB },
    Target { name: "config", run: config, memory: 512 * MIB },
    Target { name: "peft", run: adapter, memory: 128 * MIB },
    Target { name: "tokenizer", run: tokenizer, memory: 256 * MIB },
    Target { name: "template", run: template, memory: 512 * MIB },
    Target { name: "stream", run: stream, memory: 32 * MIB },
    Target { name: "data_json", run: data_json, memory: 128 * MIB },
    Target { name: "data_table", run: data_table, memory: 128 * MIB },
    Target { name: "data_parquet", run: data_parquet, memory: 512 * MIB },
    Target { name: "data_packed", run: data_packed, memory: 512 * MIB },
    Target { name: "checkpoint", run: checkpoint, memory: 64 * MIB },
    Target { name: "answer", run: answer, memory: 128 * MIB },
    Target { name: "data_parts", run: data_parts, memory: 512 * MIB },
];

/// The target of a name.
pub fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Inputs of several parts are divided by lines of two percent signs.
fn parts(bytes: &[u8]) -> Vec<&[u8]> {
    const MARK: &[u8] = b"\n%%\n";
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(MARK.len()).position(|w| w == MARK) {
        parts.push(&rest[..at]);
        rest = &rest[at + MARK.len()..];
    }
    parts.push(rest);
    parts
}

/// A folder of this process and thread, in memory where the system has such a place.
fn scratch() -> PathBuf {
    let shared = Path::new("/dev/shm");
    let root = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    let thread = format!("{:?}", std::thread::current().id());
    let digits: String = thread.chars().filter(char::is_ascii_digit).collect();
    let dir = root.join(format!("loar-fuzz-{}-{digits}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("a scratch folder can be made");
    dir
}

/// The header of one file, the index of many, and the tensors behind an accepted header.
fn safetensors(bytes: &[u8]) -> bool {
    // As it stands, and with a right length in front, so that changes of the header go further.
    let mut accepted = header(bytes);
    if let Some(end) = bytes.iter().rposition(|b| *b == b'}') {
        let start = bytes.iter().position(|b| *b == b'{').filter(|s| *s <= end).unwrap_or(0);
        let mut file = ((end + 1 - start) as u64).to_le_bytes().to_vec();
        file.extend_from_slice(&bytes[start..]);
        accepted |= file != bytes && header(&file);
    }
    if let Ok(index) = parse_index(bytes, Path::new("model.safetensors.index.json")) {
        for file in index.weight_map.values() {
            let name = Path::new(file).file_name();
            assert!(name.is_some_and(|n| n == file.as_str()), "`{file}` leaves the folder");
        }
        accepted = true;
    }
    accepted
}

fn header(bytes: &[u8]) -> bool {
    let Ok(header) = parse_header(bytes) else {
        return false;
    };
    let data: usize = header.tensors.iter().map(|t| t.byte_len()).sum();
    let length = bytes.first_chunk().map_or(0, |b| u64::from_le_bytes(*b)) as usize;
    assert_eq!(8 + length + data, bytes.len(), "a byte that belongs to nothing, or to two");
    for tensor in &header.tensors {
        assert_eq!(tensor.numel(), tensor.shape.iter().product::<usize>());
    }
    let path = scratch().join("x.safetensors");
    std::fs::write(&path, bytes).expect("the scratch folder can be written");
    let checkpoint = Checkpoint::open_file(&path).expect("the header was accepted before");
    // blocks of 2 x 2 let small tensors have ragged last blocks
    for checkpoint in [checkpoint.with_block_size([2, 2]), checkpoint] {
        for info in checkpoint.tensors() {
            assert_eq!(checkpoint.bytes(&info.name).map(|b| b.len()).ok(), Some(info.byte_len()));
            if let Ok(values) = checkpoint.to_f32(&info.name) {
                assert_eq!(values.len(), info.numel());
                assert_eq!(checkpoint.to_bf16(&info.name).map(|b| b.len()).ok(), Some(info.numel()));
            }
        }
    }
    true
}

/// `config.json`, and `generation_config.json` as a second part.
fn config(bytes: &[u8]) -> bool {
    let parts = parts(bytes);
    let generation = parts.get(1).map(|part| GenerationConfig::from_bytes(part, Path::new("generation_config.json")));
    let Ok((mut config, mut issues)) = ModelConfig::from_bytes(parts[0], Path::new("config.json")) else {
        return false;
    };
    let (again, _) = ModelConfig::from_json(&config.to_json()).expect("what is written is read");
    assert_eq!(again.to_json(), config.to_json(), "written, read and written again");
    assert_eq!((&again.rope, &again.mla, &again.moe), (&config.rope, &config.mla, &config.moe));
    if let Some(Ok(generation)) = generation {
        generation.merge_into(&mut config, &mut issues);
    }
    for issue in &issues {
        assert!(!issue.to_string().is_empty());
    }
    assert!(config.softmax_scale().is_finite(), "softmax scale {}", config.softmax_scale());
    let _ = (config.rotary_dim(), config.qk_head_dim());
    let table = expected_tensors(&config);
    assert!(!table.is_empty());
    let mut counted = std::collections::BTreeMap::new();
    for (name, shape, component) in &table {
        assert!(!is_mtp(&config, name), "{name}");
        assert_eq!(component_of(&config, name), Some(*component), "{name}");
        let count = shape.iter().fold(1u64, |n, s| n.saturating_mul(*s as u64));
        let sum: &mut u64 = counted.entry(*component).or_insert(0);
        *sum = sum.saturating_add(count);
    }
    assert_eq!(counted, parameters(&config));
    true
}

const KEYS: &str = "\
base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight 2 8
base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight 8 2
base_model.model.model.layers.0.mlp.experts.base_layer.lora_B.weight 8 4
base_model.model.model.norm.weight 8
base_model.model.model.embed_tokens.lora_embedding_A 2 16
base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector 8";

/// The model that fuzzed adapters are compared with.
fn small_model() -> ModelConfig {
    let value = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4, "vocab_size": 16,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0});
    ModelConfig::from_json(&value).expect("a valid config").0
}

/// `adapter_config.json`, and as a second part lines of tensor name and shape.
fn adapter(bytes: &[u8]) -> bool {
    let parts = parts(bytes);
    let lines = parts.get(1).map_or(KEYS.into(), |part| String::from_utf8_lossy(part));
    let tensors: Vec<(&str, Vec<usize>)> = lines.lines().take(24).map(tensor).collect();
    let Ok(config) = AdapterConfig::from_bytes(parts[0], Path::new("adapter_config.json")) else {
        return false;
    };
    let text = config.to_json().to_string();
    let again = AdapterConfig::from_bytes(text.as_bytes(), Path::new("adapter_config.json"));
    assert_eq!(again.expect("what is written is read"), config);
    let matcher = config.matcher().expect("patterns were checked on reading");
    let names = tensors.iter().map(|(name, _)| *name);
    for name in names {
        let _ = (matcher.matches_target(name), matcher.matches_parameter(name), matcher.is_saved(name));
        assert!(matcher.scaling_for(name).is_finite());
        if let Ok(key) = parse_key(&matcher, name) {
            // An older spelling of DoRA's magnitude is read too, so the name itself need not come back.
            assert_eq!(parse_key(&matcher, &format_key(&matcher, &key)).as_ref(), Ok(&key), "{name}");
        }
    }
    adapter_folder(parts[0], &config, &tensors);
    true
}

/// `name 2 8`: a name and a shape of at most three dimensions up to 64.
fn tensor(line: &str) -> (&str, Vec<usize>) {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or("");
    let shape = words.take(3).map(|w| w.parse().map_or(1, |n: usize| n % 65)).collect();
    (name, shape)
}

fn adapter_folder(config_bytes: &[u8], config: &AdapterConfig, tensors: &[(&str, Vec<usize>)]) {
    let zeros: Vec<TensorOut<'_>> = tensors
        .iter()
        .map(|(name, shape)| TensorOut {
            name: (*name).to_owned(),
            dtype: DType::BF16,
            shape: shape.clone(),
            data: vec![0; 2 * shape.iter().product::<usize>()].into(),
        })
        .collect();
    let Ok(file) = encode(&zeros, &Default::default()) else {
        return;
    };
    let dir = scratch();
    std::fs::write(dir.join(peft::CONFIG_NAME), config_bytes).expect("the scratch folder can be written");
    std::fs::write(dir.join(peft::WEIGHTS_NAME), file).expect("the scratch folder can be written");
    if let Ok((read, weights)) = peft::read(&dir) {
        assert_eq!(&read, config);
        for issue in peft::compare(&read, &weights, &small_model(), None) {
            assert!(!issue.to_string().is_empty());
        }
    }
}

const TEXT: &str = "Grüße 你好 🙂\r\n  <｜User｜><|User|> </think>\u{0}\u{301}a <｜end▁of▁sentence｜>x1234";

/// `tokenizer.json`, `tokenizer_config.json`, a text.
fn tokenizer(bytes: &[u8]) -> bool {
    let parts = parts(bytes);
    let Ok(tokenizer) = Tokenizer::from_bytes(parts[0], parts.get(1).copied().filter(|part| !part.is_empty())) else {
        return false;
    };
    let given = parts.get(2).map(|part| String::from_utf8_lossy(part)).unwrap_or_default();
    for text in [TEXT, &given] {
        if let Ok(ids) = tokenizer.encode(text, Special::AsText) {
            assert!(!ids.iter().any(|id| tokenizer.is_control(*id)), "plain text became a control token");
            decoders_agree(&tokenizer, &ids);
        }
        if let Ok(ids) = tokenizer.encode(text, Special::Parse) {
            decoders_agree(&tokenizer, &ids);
        }
    }
    let any: Vec<u32> = bytes.iter().rev().take(64).map(|b| u32::from(*b)).chain([u32::MAX]).collect();
    decoders_agree(&tokenizer, &any);
    if let Ok(Some(template)) = ChatTemplate::from_parts(None, parts.get(1).copied()) {
        let _ = template.writes_bos();
    }
    true
}

fn decoders_agree(tokenizer: &Tokenizer, ids: &[u32]) {
    for skip_special in [false, true] {
        let whole = tokenizer.decode(ids, skip_special);
        let mut decoder = tokenizer.stream_decoder(skip_special);
        let mut streamed: String = ids.iter().map(|id| decoder.push(*id)).collect();
        streamed.push_str(&decoder.finish());
        assert_eq!(streamed, whole, "streamed and whole decoding differ");
    }
}

/// A Jinja text, and as a second part a conversation.
fn template(bytes: &[u8]) -> bool {
    let parts = parts(bytes);
    let mut conversations = vec![example_conversation()];
    if let Some(Ok(conversation)) = parts.get(1).map(|part| Conversation::from_json(part)) {
        let _ = conversation.faults();
        conversations.push(conversation);
    }
    let _ = ChatTemplate::from_parts(None, Some(parts[0]));
    let Ok(Some(template)) = ChatTemplate::from_parts(Some(parts[0]), None) else {
        return false;
    };
    let mut rendered = false;
    for conversation in &conversations {
        for open in [true, false] {
            let request = RenderRequest::of(conversation, open);
            let first = template.render(&request);
            rendered |= first.is_ok();
            if let (Ok(first), Ok(second)) = (first, template.render(&request)) {
                assert_eq!(first, second, "a rendering depends on something else than its request");
            }
        }
    }
    rendered
}

fn example_conversation() -> Conversation {
    let mut answer = Message::assistant("4").with_reasoning("2 and 2");
    answer.tool_calls = vec![json!({"id": "c1", "type": "function",
        "function": {"name": "add", "arguments": {"a": 2, "b": "x"}}})];
    let mut tool = Message::new("tool", "{\"sum\": 4}");
    tool.tool_call_id = Some("c1".into());
    Conversation {
        messages: vec![Message::system("be brief"), Message::user("2+2?"), answer, tool, Message::user("more")],
        tools: Some(json!([{"type": "function", "function": {"name": "add", "parameters": {}}}])),
        ..Conversation::default()
    }
}

/// Generated text: one byte that says how it is cut into pieces, then the text.
fn stream(bytes: &[u8]) -> bool {
    let Some((cut, text)) = bytes.split_first() else {
        return false;
    };
    let text = String::from_utf8_lossy(text);
    for starts_in_reasoning in [false, true] {
        let whole = StreamParser::parse(&text, starts_in_reasoning);
        let mut parser = StreamParser::new(starts_in_reasoning);
        let mut pieces = Parsed::default();
        let (mut piece, width) = (String::new(), 1 + usize::from(*cut) % 8);
        for c in text.chars() {
            piece.push(c);
            if piece.chars().count() >= width {
                pieces.absorb(parser.push(&piece));
                piece.clear();
            }
        }
        pieces.absorb(parser.push(&piece));
        pieces.absorb(parser.finish());
        pieces.reasoning_truncated = parser.in_reasoning();
        assert_eq!(pieces, whole, "streamed and whole parsing differ");
    }
    true
}

fn data_json(bytes: &[u8]) -> bool {
    ["x.jsonl", "x.json"].map(|name| rows(name, bytes)).contains(&true)
}

fn data_table(bytes: &[u8]) -> bool {
    let first = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let table = if first.contains(&b'\t') { "x.tsv" } else { "x.csv" };
    [table, "x.txt"].map(|name| rows(name, bytes)).contains(&true)
}

fn data_parquet(bytes: &[u8]) -> bool {
    rows("x.parquet", bytes)
}

fn data_packed(bytes: &[u8]) -> bool {
    ["x.jsonl.gz", "x.jsonl.zst"].map(|name| rows(name, bytes)).contains(&true)
}

/// Reads under both policies; both accounts of the rows must agree.
fn rows(name: &str, bytes: &[u8]) -> bool {
    let stop = read_bytes(name, bytes, &ReadOptions::default());
    let dropping = ReadOptions { on_bad_row: OnBadRow::Drop, ..ReadOptions::default() };
    let dropped = read_bytes(name, bytes, &dropping);
    match (&stop, &dropped) {
        (Ok(a), Ok(b)) => {
            assert_eq!(a.examples, b.examples);
            assert_eq!((a.rows_read(), a.dropped.len(), b.dropped.len()), (a.examples.len(), 0, 0));
        }
        (Err(DataError::Rows(f)), other) => {
            assert_eq!(f.rows_read, f.good_rows + f.bad_rows);
            assert!(f.total >= f.bad_rows + f.bad_files && !f.to_string().is_empty());
            match other {
                Ok(b) => assert_eq!((f.bad_files, f.good_rows, f.bad_rows), (0, b.examples.len(), b.dropped.len())),
                Err(DataError::Rows(g)) => {
                    assert_eq!((g.total, g.bad_files), (f.bad_files, f.bad_files));
                    assert_eq!((g.rows_read, g.good_rows), (f.rows_read, f.good_rows));
                }
                Err(DataError::NothingLeft { rows, .. }) => {
                    assert_eq!((f.good_rows, f.bad_rows), (0, *rows))
                }
                Err(other) => panic!("{other}"),
            }
        }
        _ => panic!("{stop:?} but {dropped:?}"),
    }
    stop.is_ok()
}

/// Containers that the streaming reader cuts; JSONL is cut without being parsed, the rest by rows.
const CUT: [&str; 8] = ["x.jsonl", "x.jsonl", "x.json", "x.csv", "x.txt", "x.jsonl.gz", "x.jsonl.zst", "x.parquet"];
/// Bytes of a part: a row each, some rows, all rows.
const PARTS: [usize; 4] = [1, 40, 400, MIB];

/// One byte that says which container and how it is cut, then the file: parts of any size hold the
/// rows that the whole file gives, with the same places and faults, and the same fault ends the file.
fn data_parts(bytes: &[u8]) -> bool {
    let Some((how, content)) = bytes.split_first() else {
        return false;
    };
    let how = usize::from(*how);
    let path = scratch().join(CUT[how % CUT.len()]);
    std::fs::write(&path, content).expect("the scratch folder can be written");
    // a small bound, so that rows beyond it occur
    let options = ReadOptions { on_bad_row: OnBadRow::Drop, max_row_bytes: 2000, ..ReadOptions::default() };
    let whole = read(std::slice::from_ref(&path), &options);
    let (mut examples, mut bad, mut next) = (Vec::new(), Vec::new(), 0);
    let cut = stream::parts(&path, &options, PARTS[how / CUT.len() % PARTS.len()], &mut |part| {
        assert_eq!(part.first_row, next);
        next += part.rows as u64;
        let rows = part.read(&options);
        let mut indices: Vec<usize> = rows.examples.iter().map(|(index, _)| *index).collect();
        indices.extend(rows.bad.iter().map(|row| row.index));
        indices.sort_unstable();
        assert!(indices.into_iter().eq(0..part.rows), "a row is lost or counted twice");
        examples.extend(rows.examples.into_iter().map(|(_, row)| (part.id(row.line), row.line, row.body, row.kept)));
        bad.extend(rows.bad.into_iter().map(|row| (part.id(row.line), row.kind, row.reason)));
        Flow::Next
    });
    match (whole, cut) {
        (Ok(whole), Ok(Some(report))) => {
            let read: Vec<_> = whole.examples.into_iter().map(|e| (e.id, e.line, e.body, e.kept)).collect();
            assert_eq!(examples, read);
            let dropped: Vec<_> = whole.dropped.into_iter().map(|row| (row.id, row.kind, row.reason)).collect();
            assert_eq!(bad, dropped);
            let file = &whole.files[0];
            assert_eq!((report.rows as u64, report.rows), (next, file.rows));
            assert_eq!((report.content_id, report.format), (file.content_id, file.format));
            true
        }
        (Err(DataError::NothingLeft { rows, .. }), Ok(Some(report))) => {
            assert_eq!((examples.len(), bad.len(), report.rows), (0, rows, rows));
            false
        }
        (Err(DataError::Rows(faults)), Err(fault)) => {
            assert_eq!((faults.bad_files, faults.first.first()), (1, Some(&*fault)));
            assert_eq!((faults.good_rows, faults.rows_read), (examples.len(), examples.len() + bad.len()));
            false
        }
        (whole, cut) => panic!("{whole:?} but {cut:?}"),
    }
}

/// A training checkpoint, as it stands and with a right hash at its end.
fn checkpoint(bytes: &[u8]) -> bool {
    /// `sha256:` and 64 hex digits.
    const TRAILER: usize = 71;
    let accepted = loar_train::checkpoint::decode(bytes).is_ok();
    let body = &bytes[..bytes.len().saturating_sub(TRAILER)];
    let mut mended = body.to_vec();
    mended.extend_from_slice(ContentId::of_bytes(body).to_string().as_bytes());
    match loar_train::checkpoint::decode(&mended) {
        Ok(state) => {
            let text = serde_json::to_string(&state).expect("a state is JSON");
            assert_eq!(serde_json::from_str::<loar_train::checkpoint::State>(&text).ok(), Some(state));
            accepted
        }
        Err(fault) => {
            assert!(!fault.to_string().is_empty() && !accepted);
            false
        }
    }
}

/// A generated text: the answer of every kind. An answer equals itself, and its canonical form, read as
/// its own kind, gives itself.
fn answer(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let kinds = [Kind::Auto, Kind::Number, Kind::Math, Kind::Choice, Kind::YesNo, Kind::Date, Kind::Json, Kind::Text];
    let mut found = false;
    for kind in kinds {
        let Some(answer) = extract(text, &ExtractOptions::of(kind)) else { continue };
        found = true;
        assert!(equal(&answer, &answer, &EqualOptions::default()), "{answer:?} is not itself");
        let canonical = answer.canonical();
        let again = Answer::read(&canonical, &ExtractOptions::of(answer.kind)).canonical();
        assert_eq!(again, canonical, "{answer:?}");
    }
    found
}
