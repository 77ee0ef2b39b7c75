//! Every container gives the same rows with the right lines, and says what breaks it.

mod common;

use std::io::Write;
use std::path::PathBuf;

use common::*;
use loar_data::{Container, DataError, FaultKind, Format, ReadOptions, TextUnit, read};
use loar_text::Body;

const ROWS: &str = "{\"prompt\":\"p1\",\"completion\":\"c1\"}\n\n{\"prompt\":\"p2\",\"completion\":\"c2\"}\n";

fn pair(p: &str, c: &str) -> Body {
    Body::Completion { prompt: p.into(), completion: c.into() }
}

fn bodies(data: &loar_data::Dataset) -> Vec<Body> {
    data.examples.iter().map(|e| e.body.clone()).collect()
}

fn both() -> Vec<Body> {
    vec![pair("p1", "c1"), pair("p2", "c2")]
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

#[test]
fn jsonl_counts_blank_lines() {
    let data = ok("a.jsonl", ROWS);
    assert_eq!(bodies(&data), both());
    assert_eq!(ids(&data), ["a.jsonl:1", "a.jsonl:3"]);
    assert_eq!(data.files[0].format, Format::PromptCompletion);
    assert_eq!(data.files[0].format_why, "`prompt` and `completion` in 2 of the first 2 rows");
    assert_eq!(data.files[0].container, Container::Jsonl);
    assert_eq!(data.rows_read(), 2);
    assert_eq!(data.files[0].bytes, ROWS.len() as u64);
    assert_eq!(data.files[0].content_id, loar_artifact::ContentId::of_bytes(ROWS.as_bytes()));
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_fine() {
    let text = format!("\u{feff}{}", ROWS.replace('\n', "\r\n"));
    assert_eq!(bodies(&ok("a.jsonl", text)), both());
}

#[test]
fn json_arrays_carry_the_line_of_each_element() {
    let text =
        "[\n  {\"prompt\": \"p1\",\n   \"completion\": \"c1\"},\n\n  {\"prompt\": \"p2\", \"completion\": \"c2\"}\n]\n";
    let data = ok("a.json", text);
    assert_eq!(bodies(&data), both());
    assert_eq!(ids(&data), ["a.json:2", "a.json:5"]);
    assert_eq!(bodies(&ok("a.jsonl", text)), both(), "an array under a JSONL name");
    assert_eq!(bodies(&ok("noextension", text)), both());
}

#[test]
fn a_list_wrapped_in_an_object_is_found() {
    let text = r#"{"version": 1, "tags": ["x"], "data": [{"prompt":"p1","completion":"c1"}, {"prompt":"p2","completion":"c2"}], "end": null}"#;
    assert_eq!(bodies(&ok("a.json", text)), both());
    let two = r#"{"a": [{"prompt":"p","completion":"c"}], "b": [{"prompt":"p","completion":"c"}]}"#;
    let found = faults("a.json", two);
    assert_eq!(found.first.last().unwrap().kind, FaultKind::BrokenJson);
    assert!(found.to_string().contains("two lists of objects, `a` and `b`"), "{found}");
}

#[test]
fn one_pretty_printed_row_is_a_row_and_not_a_wrapper() {
    let text = "{\n \"id\": 7,\n \"messages\": [\n {\"role\":\"user\",\"content\":\"q\"},\n {\"role\":\"assistant\",\"content\":\"a\"}],\n \"n\": [1, [2]]}\n{\"messages\": [{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":\"b\"}]}";
    let data = ok("a.json", text);
    assert_eq!(turns(&data, 0), [("user", "q"), ("assistant", "a")]);
    assert_eq!(turns(&data, 1), [("user", "q"), ("assistant", "b")]);
    assert_eq!(ids(&data), ["a.json:1", "a.json:7"]);
}

#[test]
fn a_json_name_over_lines_is_read_as_lines() {
    let data = ok("a.json", ROWS);
    assert_eq!(bodies(&data), both());
    assert_eq!(data.files[0].container, Container::Jsonl);
    // A broken line costs one row, and the line numbers hold.
    let text = format!("\n\n{ROWS}{{\"prompt\": nope}}\n{{\"prompt\":\"p3\",\"completion\":\"c3\"}}\n");
    let data = with("a.json", text, &drop_bad());
    assert_eq!(ids(&data), ["a.json:3", "a.json:5", "a.json:7"]);
    assert_eq!(data.dropped[0].id, "a.json:6");
    assert_eq!(data.dropped[0].kind, FaultKind::InvalidJson);
}

#[test]
fn a_document_of_one_line_longer_than_the_bound_is_streamed() {
    let rows: Vec<String> = (0..200).map(|i| format!("{{\"prompt\":\"p{i}\",\"completion\":\"c\"}}")).collect();
    let options = ReadOptions { max_row_bytes: 64, ..ReadOptions::default() };
    let list = format!("[{}]", rows.join(","));
    assert_eq!(with("a.json", &list, &options).examples.len(), 200);
    let wrapped = format!("{{\"rows\":{list}}}");
    assert_eq!(with("a.json", wrapped, &options).examples.len(), 200);
    let long = format!("[{{\"prompt\":\"{}\",\"completion\":\"c\"}},{}]", "x".repeat(90), rows[0]);
    let found = faults_with("a.json", long, &options);
    assert_eq!((found.rows_read, found.good_rows, found.bad_rows), (2, 1, 1));
    assert_eq!(kinds(&found), [(FaultKind::RowTooLong, "")]);
}

#[test]
fn a_json_document_that_breaks_off_ends_the_file() {
    let text = "[{\"prompt\":\"p1\",\"completion\":\"c1\"},\n{\"prompt\":\"p2\",\"comp";
    for options in [ReadOptions::default(), drop_bad()] {
        let found = faults_with("a.json", text, &options);
        assert_eq!((found.rows_read, found.bad_files), (1, 1));
        assert_eq!(
            found.first[0].to_string(),
            "a.json:2: the document breaks off or is not JSON between its rows, found the end of the file \
             inside a value of 20 bytes that starts on line 2; mend the document or write one object a line \
             (JSONL), where a broken row leaves the others whole"
        );
    }
    for text in ["[{} {}]", "[{},]", "[,]", "{\"a\" 1}", "{\"a\":1,}", "{1:2}", "x", "[}", "[{}]}"] {
        let found = faults("a.json", text);
        assert_eq!(found.first.last().unwrap().kind, FaultKind::BrokenJson, "{text}");
    }
}

#[test]
fn gzip_and_zstd_are_unpacked_by_their_bytes() {
    let mut two = gzip(ROWS.as_bytes());
    two.extend(gzip(b"{\"prompt\":\"p3\",\"completion\":\"c3\"}\n"));
    let data = ok("a.jsonl.gz", &two);
    assert_eq!(data.examples.len(), 3, "members are joined");
    assert_eq!(data.files[0].content_id, loar_artifact::ContentId::of_bytes(&two));
    let zst = zstd::encode_all(ROWS.as_bytes(), 3).unwrap();
    assert_eq!(bodies(&ok("a.jsonl.zst", &zst)), both());
    assert_eq!(bodies(&ok("a.jsonl", &zst)), both(), "the name does not matter");
    assert_eq!(bodies(&ok("a.csv.gz", gzip(b"prompt,completion\np1,c1\np2,c2\n"))), both());
}

#[test]
fn damaged_archives_are_named_in_both_modes() {
    let whole = gzip(ROWS.repeat(100).as_bytes());
    for options in [ReadOptions::default(), drop_bad()] {
        let found = faults_with("a.jsonl.gz", &whole[..whole.len() - 9], &options);
        assert!(kinds(&found).contains(&(FaultKind::DamagedArchive, "")), "{found}");
    }
    let found = faults("a.jsonl.gz", ROWS);
    assert_eq!(
        found.first[0].to_string(),
        "a.jsonl.gz: the compressed stream is damaged, found a name that says compressed over the bytes \
         `7b 22 70 72`; copy or compress the file again"
    );
    let zst = zstd::encode_all(ROWS.repeat(100).as_bytes(), 3).unwrap();
    assert_eq!(faults("a.zst", &zst[..zst.len() - 3]).bad_files, 1);
}

#[test]
fn bombs_are_stopped() {
    let bomb = gzip(&vec![b' '; 1 << 20]);
    let options = ReadOptions { max_unpacked_bytes: 1 << 16, ..ReadOptions::default() };
    let found = faults_with("a.jsonl.gz", &bomb, &options);
    assert_eq!(kinds(&found), [(FaultKind::TooLarge, "")]);
    assert!(found.to_string().contains("more than 65536 bytes out of"), "{found}");
    // 80 MiB of blank lines out of a few KB passes the ratio.
    let bomb = zstd::encode_all(std::io::repeat(b'\n').take_bytes(80 << 20), 1).unwrap();
    assert_eq!(kinds(&faults("a.jsonl.zst", &bomb)), [(FaultKind::TooLarge, "")]);
}

trait TakeBytes: std::io::Read + Sized {
    fn take_bytes(self, n: u64) -> std::io::Take<Self> {
        std::io::Read::take(self, n)
    }
}
impl<R: std::io::Read> TakeBytes for R {}

#[test]
fn csv_records_keep_their_line_and_may_hold_line_breaks() {
    let data = ok("a.csv", "prompt,completion\np1,c1\n\"p\n2\",\"say \"\"c2\"\"\"\np3,c3\n");
    assert_eq!(bodies(&data), [pair("p1", "c1"), pair("p\n2", "say \"c2\""), pair("p3", "c3")]);
    assert_eq!(ids(&data), ["a.csv:2", "a.csv:3", "a.csv:5"]);
    for (name, text) in [
        ("a.tsv", "prompt\tcompletion\np1\tc1\np2\tc2\n"),
        ("a.csv", "prompt;completion\np1;c1\np2;c2\n"),
        ("a.csv", "\u{feff}prompt,completion\r\np1,c1\r\np2,c2\r\n"),
    ] {
        assert_eq!(bodies(&ok(name, text)), both());
    }
    let messages = "id,messages\n1,\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"q\"\"},{\"\"role\"\":\"\"assistant\"\",\"\"content\"\":\"\"a\"\"}]\"\n";
    assert_eq!(turns(&ok("a.csv", messages), 0), [("user", "q"), ("assistant", "a")]);
}

#[test]
fn csv_faults() {
    let found = faults("a.csv", "prompt,completion\np1,c1,more\np2\np3,\n\"p4,c4\nrest\n");
    assert_eq!(
        kinds(&found),
        [
            (FaultKind::ColumnCount, ""),
            (FaultKind::ColumnCount, ""),
            (FaultKind::MissingField, "completion"),
            (FaultKind::UnclosedQuote, ""),
        ]
    );
    assert_eq!(found.first[3].line, Some(5));
    assert_eq!(faults("a.csv", "a,a\n1,2\n").first[0].kind, FaultKind::BadHeader);
    assert_eq!(faults("a.csv", b"prompt,completion\np\xff,c\n").first[0].field, "prompt");
    let options = ReadOptions { max_row_bytes: 100, ..ReadOptions::default() };
    let endless = format!("prompt,completion\np,c\n\"{}", "x\n".repeat(20_000));
    let found = faults_with("a.csv", endless, &options);
    assert_eq!(found.first[0].kind, FaultKind::EndlessRecord);
    assert_eq!(found.first[0].line, Some(3));
}

#[test]
fn text_files_give_one_example_or_one_per_block() {
    let text = "\nline one\r\nline two\n\n\n  second block \n";
    let data = ok("a.txt", text);
    assert_eq!(data.examples[0].body, Body::Text("line one\nline two\n\n\n  second block".into()));
    assert_eq!(ids(&data), ["a.txt:2"]);
    let options = ReadOptions { text_unit: TextUnit::Block, ..ReadOptions::default() };
    let data = with("a.txt", text, &options);
    assert_eq!(ids(&data), ["a.txt:2", "a.txt:6"]);
    assert_eq!(data.examples[1].body, Body::Text("  second block".into()));
    assert_eq!(kinds(&faults("a.txt", b"ok \xff")), [(FaultKind::InvalidUtf8, "")]);
}

#[test]
fn foreign_files_are_refused_by_name() {
    for (bytes, what) in [
        (b"PK\x03\x04rest".as_slice(), "a zip archive or an Office file"),
        (b"ARROW1\0\0", "an Arrow IPC file"),
        (b"\xff\xfe{\0", "UTF-16 text"),
    ] {
        let found = faults("a.jsonl", bytes).to_string();
        assert!(found.contains(what), "{found}");
    }
    assert_eq!(faults("a.dat", "hello").first[0].kind, FaultKind::UnknownContainer);
    assert_eq!(faults("a.parquet", "hello").first[0].kind, FaultKind::BrokenParquet);
    for name in ["a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.gz"] {
        assert_eq!(faults(name, "").first[0].kind, FaultKind::EmptyFile, "{name}");
    }
}

#[test]
fn long_lines_are_skipped_without_losing_the_next() {
    let options = ReadOptions { max_row_bytes: 40, ..drop_bad() };
    let text = format!("{{\"prompt\":\"{}\",\"completion\":\"c\"}}\n{ROWS}", "x".repeat(100));
    let data = with("a.jsonl", text, &options);
    assert_eq!(ids(&data), ["a.jsonl:2", "a.jsonl:4"]);
    assert_eq!(data.dropped[0].kind, FaultKind::RowTooLong);
    assert_eq!(data.rows_read(), 3);
}

#[test]
fn folders_are_walked_in_order_and_say_what_they_pass_over() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("b.jsonl", "{\"text\":\"b\"}\n");
    put("a/z.txt", "z");
    put("a/c.jsonl", "{\"text\":\"c\"}\n");
    put("README.md", "card");
    put(".cache/x.jsonl", "broken");
    let data = read(&[dir.path().to_path_buf()], &ReadOptions::default()).unwrap();
    let texts: Vec<Body> = bodies(&data);
    assert_eq!(texts, ["c", "z", "b"].map(|t| Body::Text(t.into())));
    let mut passed: Vec<String> = data
        .passed_over
        .iter()
        .map(|(p, why)| format!("{}: {why}", p.file_name().unwrap().to_string_lossy()))
        .collect();
    passed.sort();
    assert_eq!(passed, [".cache: a hidden name", "README.md: the name does not say data"]);

    let twice = [dir.path().join("b.jsonl"), dir.path().join("./b.jsonl")];
    let error = read(&twice, &ReadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("already in the list"), "{error}");
    let absent = read(&[PathBuf::from("no/such.jsonl")], &ReadOptions::default());
    assert_eq!(
        absent.unwrap_err().to_string(),
        "1 fault in 0 of 0 rows, 1 file not read to the end\n  no/such.jsonl: cannot be read, \
         found No such file or directory; check the path and its rights"
    );
    assert!(matches!(read(&[], &ReadOptions::default()), Err(DataError::NoFiles(_))));
}
