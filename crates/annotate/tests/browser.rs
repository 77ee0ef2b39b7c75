//! The page in a real browser: three annotators and an adjudicator to the end, by keyboard alone.
//!
//! Needs Chromium (Debian: `apt-get install chromium`); without it the test says so and passes.
//! `LOAR_PICTURES=DIR` keeps pictures of the page.

mod common;

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::chromium::{Browser, Tab};
use loar_annotate::log::verify;
use loar_annotate::report::Report;
use loar_annotate::store::Store;
use loar_annotate::workflow::Stage;
use loar_annotate::{Task, server, task};
use serde_json::json;

const INJECTION: &str = "<img src=x onerror=\"window.injected=1\"><script>window.injected=1</script>";
const ROWS: usize = 10;

/// The example's task with ten rows, one of them hostile, and no gold.
fn write(dir: &Path) -> Arc<Task> {
    let text = task::EXAMPLE.replace("gold = \"gold.jsonl\"", "").replace("audit = 0.05", "audit = 0");
    let flaws = "[[rubric]]\nname = \"flaws\"\ntitle = \"Which flaws?\"\ntitle_zh = \"有哪些问题？\"\nscale = \"multi\"\n\
        labels = [{ name = \"policy\", title = \"Against policy\" }, { name = \"tone\", title = \"Tone\" }]\n\n[[people]]";
    let text = text.replacen("[[people]]", flaws, 1);
    std::fs::write(dir.join("task.toml"), text).unwrap();
    std::fs::write(dir.join("guideline.md"), task::EXAMPLE_GUIDELINE).unwrap();
    let row = |i: usize| {
        let answer = match i {
            4 => INJECTION.to_owned(),
            _ if i < 4 => "Approve, the customer is loyal.".to_owned(),
            _ => format!("Approve: income is {i} times the debt, and nothing was late."),
        };
        let question = format!("Row {i}. Income {}000, debt 1000, no late payment. Approve?", i + 3);
        json!({"messages": [
            {"role": "system", "content": "Answer as a credit officer."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer, "reasoning_content": "Income against debt, then late payments."},
        ]})
    };
    let rows: Vec<String> = (0..ROWS).map(|i| row(i).to_string()).collect();
    std::fs::write(dir.join("rows.jsonl"), rows.join("\n")).unwrap();
    Arc::new(Task::read(&dir.join("task.toml")).unwrap())
}

struct Session {
    browser: Browser,
    address: String,
    store: Store,
    pictures: Option<PathBuf>,
}

impl Session {
    fn open(&mut self, who: &str) -> Tab {
        let token = self.store.tokens().unwrap()[who].clone();
        let tab = self.browser.open(&format!("http://{}/#token={token}", self.address));
        self.browser.until(&tab, "document.querySelector('#person')?.textContent");
        self.browser.front(&tab);
        assert_eq!(self.browser.eval(&tab, "document.querySelector('#person').textContent"), who);
        // the token is not left in the address
        assert_eq!(self.browser.eval(&tab, "location.hash"), "");
        tab
    }

    fn keys(&mut self, tab: &Tab, keys: &[&str]) {
        keys.iter().for_each(|key| self.browser.key(tab, key));
    }

    fn done(&mut self, tab: &Tab, n: usize) {
        self.browser.until(tab, &format!("document.querySelector('#count').textContent.startsWith('{n} ')"));
    }

    fn picture(&mut self, tab: &Tab, name: &str) {
        if let Some(dir) = self.pictures.clone() {
            self.browser.picture(tab, &dir.join(format!("{name}.png")));
        }
    }
}

#[test]
fn three_annotators_and_an_adjudicator_by_keyboard() {
    let Some(browser) = Browser::start() else {
        // past the capture of passing tests
        let _ = writeln!(std::io::stderr(), "SKIPPED: no Chromium is installed, the page was not driven");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let task = write(dir.path());
    let mut served = Store::open(task.clone()).unwrap();
    served.import().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || server::serve(listener, served).unwrap());
    let store = Store::open(task.clone()).unwrap();
    let pictures = std::env::var_os("LOAR_PICTURES").map(PathBuf::from);
    let mut session = Session { browser, address, store, pictures };

    for who in ["anna", "bo", "chen"] {
        annotate(&mut session, who);
    }
    session.store.refresh().unwrap();
    assert_eq!(session.store.ids(|i| i.stage() == Stage::Adjudication), [10]);
    assert_eq!(session.store.ids(|i| i.stage() == Stage::Rejected), [1, 2, 3, 4]);
    decide(&mut session);
    session.store.refresh().unwrap();
    assert_eq!(session.store.ids(|i| i.stage() == Stage::Accepted), [5, 6, 7, 8, 9, 10]);
    let last = session.store.item(10).unwrap().decision().unwrap().clone();
    assert_eq!(last.by.as_deref(), Some("dora"));
    assert_eq!(last.answer.correction.as_deref(), Some("Approve: twelve times the debt. 批准"));
    let report = Report::of(&session.store);
    assert_eq!(report.rubrics[0].verdict, "reliable", "{report:?}");
    assert_eq!(report.rubrics[2].alpha, Some(1.0), "{report:?}");
    assert_eq!(session.store.item(1).unwrap().checks()[0].answer.labels["flaws"], ["policy"]);
    assert!(verify(&task, Some(report.head.hash)).unwrap().faults.is_empty());
}

/// Ten rows by keyboard; the last is where chen differs.
fn annotate(session: &mut Session, who: &str) {
    let tab = session.open(who);
    for i in 0..ROWS {
        session.browser.until(&tab, &format!("document.querySelector('main').innerText.includes('Row {i}.')"));
        if i == 4 {
            // data is shown as text and stays text
            session.browser.until(&tab, "document.querySelector('.judged .text').textContent.startsWith('<img src=x')");
            assert_eq!(session.browser.eval(&tab, "document.querySelectorAll('main img, main script').length"), 0);
            assert_eq!(session.browser.eval(&tab, "window.injected ?? null"), json!(null));
        }
        if i == 2 && who == "anna" {
            first_impressions(session, &tab);
        }
        let correct = if i < 4 { "2" } else { "1" };
        let (correct, clarity) =
            if i == 9 && who == "chen" { ("2", "1") } else { (correct, if i < 4 { "1" } else { "3" }) };
        session.keys(&tab, &[correct, clarity]);
        if i < 4 {
            // the set of labels has the focus now; a second press takes a label out again
            session.keys(&tab, &["2", "1", "2"]);
        }
        if i == 9 && who == "chen" {
            session.keys(&tab, &["n"]);
            session.browser.write(&tab, "no figures");
            session.browser.key(&tab, "Escape");
        }
        if i == 6 {
            session.picture(&tab, &format!("check-{who}"));
        }
        session.browser.key(&tab, "Enter");
        session.done(&tab, i + 1);
    }
    session.browser.until(&tab, "document.querySelector('main').innerText.includes('Nothing left')");
    // confirmed rows can be looked at and not changed
    session.browser.key(&tab, "k");
    session.browser.until(&tab, "document.querySelector('.sealed')");
    session.keys(&tab, &["1", "1", "Enter"]);
    session.done(&tab, ROWS);
    // nobody sees agreement, or another's labels
    let fetched =
        "fetch('/api/report', {headers: {authorization: `Bearer ${sessionStorage.token}`}}).then((r) => r.status)";
    assert_eq!(session.browser.eval(&tab, fetched), 403);
}

/// Help, guideline, language, moving, correcting and taking it back, an early Enter.
fn first_impressions(session: &mut Session, tab: &Tab) {
    session.browser.key(tab, "Enter");
    session.browser.until(tab, "document.querySelector('#status').textContent.includes('every rubric')");
    session.browser.key(tab, "?");
    session.browser.until(tab, "document.querySelector('dialog').open");
    let help = session.browser.eval(tab, "document.body.innerText");
    assert!(!help.as_str().unwrap().contains("[object"), "{help}");
    session.picture(tab, "help");
    session.browser.key(tab, "Escape");
    session.browser.until(tab, "!document.querySelector('dialog').open");
    session.browser.key(tab, "g");
    session.browser.until(tab, "document.querySelector('dialog h1')?.textContent === 'Credit answers'");
    session.picture(tab, "guideline");
    session.browser.key(tab, "g");
    session.browser.key(tab, "l");
    session.browser.until(tab, "document.querySelector('.rubric h2').textContent === '结论是否正确？'");
    session.picture(tab, "chinese");
    session.browser.key(tab, "l");
    session.keys(tab, &["j"]);
    session.browser.until(tab, "document.querySelector('main').innerText.includes('Row 3.')");
    session.keys(tab, &["ArrowUp", "e"]);
    session.browser.until(tab, "document.activeElement.id === 'correction'");
    session.browser.write(tab, " 1 2 j");
    session.browser.key_with(tab, "Enter", 2);
    session.browser.until(tab, "document.querySelector('.judged .text').textContent.endsWith('loyal. 1 2 j')");
    session.browser.key(tab, "z");
    session.browser.until(tab, "document.querySelector('.judged .text').textContent.endsWith('loyal.')");
}

fn decide(session: &mut Session) {
    let tab = session.open("dora");
    session.browser.until(&tab, "document.querySelectorAll('.check').length === 3");
    let shown = session.browser.eval(&tab, "document.querySelector('.checks').innerText");
    let shown = shown.as_str().unwrap();
    assert!(shown.contains("no figures") && shown.contains("Right") && shown.contains("Wrong"), "{shown}");
    for name in ["anna", "bo", "chen"] {
        assert!(
            !session.browser.eval(&tab, "document.body.innerText").as_str().unwrap().contains(name),
            "{name} is named"
        );
    }
    // whoever of A, B, C said `Right`
    let find = "'abc'[[...document.querySelectorAll('.check')].findIndex((c) => c.innerText.includes('Right'))]";
    let key = session.browser.eval(&tab, find).as_str().unwrap().to_owned();
    session.keys(&tab, &[&key, "e"]);
    session.browser.until(&tab, "document.activeElement.id === 'correction'");
    session.browser.eval(&tab, "document.activeElement.select()");
    session.browser.write(&tab, "Approve: twelve times the debt. 批准");
    session.browser.key(&tab, "Escape");
    session.picture(&tab, "adjudication");
    session.keys(&tab, &["x"]);
    session.browser.until(&tab, "document.querySelector('.confirm.dropping')");
    session.keys(&tab, &["x", "Enter"]);
    session.done(&tab, 1);
    session.browser.key(&tab, "v");
    session.browser.until(&tab, "document.querySelector('.alpha.reliable, .reliable .alpha')");
    session.picture(&tab, "agreement");
    session.browser.dark(&tab);
    session.picture(&tab, "agreement-dark");
    session.browser.key(&tab, "v");
    session.browser.until(&tab, "document.querySelector('main').innerText.includes('Nothing left')");
}
