//! The annotators' page and its API, on loopback unless told otherwise.
//!
//! Whoever holds a token is that person; the token stands in the address after `#`, which browsers
//! do not send, and travels in a header, which other sites cannot set. Requests from another origin
//! or for another host name are refused, and the page may run its own script only. Rows go out under
//! names that differ for each person, so that gold cannot be told by its number, and nobody is sent
//! another's label of a row that they may still check.

use std::collections::HashMap;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Json, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Router};
use loar_artifact::ContentId;
use loar_text::Body;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::AnnotateError;
use crate::judge;
use crate::report::Report;
use crate::store::{Store, answer_of, corrected};
use crate::task::{Person, Role};
use crate::workflow::{Answer, CHECKS, Item, Stage};

/// Rows a page holds ahead.
const AHEAD: usize = 10;
/// Own earlier rows a page shows.
const BEHIND: usize = 50;
/// How long a row that was sent out is kept for its annotator.
const LEASE: Duration = Duration::from_secs(15 * 60);

const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("page/style.css")),
    ("/app.js", "text/javascript; charset=utf-8", include_str!("page/app.js")),
    ("/view.js", "text/javascript; charset=utf-8", include_str!("page/view.js")),
    ("/words.js", "text/javascript; charset=utf-8", include_str!("page/words.js")),
];

/// Own script and style only, no frame, no form, no string that becomes markup.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Everything the handlers share.
struct Server {
    store: Mutex<Store>,
    people: HashMap<String, Person>,
    /// Row → who has it open, since when.
    leases: Mutex<HashMap<u64, Vec<(String, Instant)>>>,
    report: Mutex<Option<(ContentId, Value)>>,
    loopback: bool,
}

/// A refusal with its status.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"error": self.1}))).into_response()
    }
}

impl From<AnnotateError> for Failure {
    fn from(error: AnnotateError) -> Self {
        let status = match &error {
            AnnotateError::Refused(_) | AnnotateError::OldGuideline => StatusCode::CONFLICT,
            AnnotateError::NoRow(_) => StatusCode::NOT_FOUND,
            AnnotateError::NothingToCorrect(_) => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Failure(status, error.to_string())
    }
}

type Answered = Result<Json<Value>, Failure>;

/// A poisoned lock means that another request panicked; the store itself is transactional.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the store's task, one thread for requests, until the process ends: a kill loses nothing that
/// was confirmed.
///
/// # Errors
/// The listener or the store.
pub fn serve(listener: TcpListener, store: Store) -> Result<(), AnnotateError> {
    let io = |source| AnnotateError::Io { what: "the server".into(), source };
    let loopback = listener.local_addr().map_err(io)?.ip().is_loopback();
    let router = router(store, loopback)?;
    listener.set_nonblocking(true).map_err(io)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(io)?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::from_std(listener).map_err(io)?;
        axum::serve(listener, router).await.map_err(io)
    })
}

fn router(store: Store, loopback: bool) -> Result<Router, AnnotateError> {
    let tokens = store.tokens()?;
    let named = store.task().people.iter();
    let people = named.filter_map(|p| tokens.get(&p.name).map(|token| (token.clone(), p.clone()))).collect();
    let server = Arc::new(Server {
        store: Mutex::new(store),
        people,
        leases: Mutex::default(),
        report: Mutex::default(),
        loopback,
    });
    let mut router = Router::new();
    for (path, kind, text) in FILES {
        router = router.route(path, get(move || async move { ([(header::CONTENT_TYPE, kind)], text) }));
    }
    let api = Router::new()
        .route("/api/me", get(me))
        .route("/api/queue", get(queue))
        .route("/api/report", get(report))
        .route("/api/check", post(check))
        .route("/api/adjudicate", post(adjudicate))
        .route("/api/audit", post(audit))
        .layer(middleware::from_fn_with_state(server.clone(), known_person));
    Ok(router.merge(api).layer(middleware::from_fn_with_state(server.clone(), same_origin)).with_state(server))
}

/// Whether a request comes from another site, or for another name that was pointed here.
fn foreign(server: &Server, method: &Method, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let host = text("host").unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let host_foreign = server.loopback && !["localhost", "127.0.0.1", "[::1]"].contains(&name);
    let site_foreign =
        *method != Method::GET && text("sec-fetch-site").is_some_and(|s| s != "same-origin" && s != "none");
    let origin_foreign = text("origin").is_some_and(|o| o.split_once("://").map(|(_, h)| h) != Some(host));
    host_foreign || site_foreign || origin_foreign
}

/// Refuses other hosts and origins; adds the headers of every answer.
async fn same_origin(State(server): State<Arc<Server>>, request: Request, next: Next) -> Response {
    let mut response = if foreign(&server, request.method(), request.headers()) {
        Failure(StatusCode::FORBIDDEN, "this page answers to itself only".into()).into_response()
    } else {
        next.run(request).await
    };
    for (name, value) in [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ] {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

/// Finds the person behind the token.
async fn known_person(State(server): State<Arc<Server>>, mut request: Request, next: Next) -> Response {
    let token = bearer(request.headers());
    match token.and_then(|token| server.people.get(token)).cloned() {
        Some(person) => {
            request.extensions_mut().insert(person);
            next.run(request).await
        }
        None => Failure(StatusCode::UNAUTHORIZED, "this address has no valid token".into()).into_response(),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Runs `f` on the store, off the thread that answers requests.
async fn on_store<T: Send + 'static>(
    server: Arc<Server>,
    f: impl FnOnce(&Server, &mut Store) -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let work = tokio::task::spawn_blocking(move || {
        let mut store = lock(&server.store);
        store.refresh()?;
        f(&server, &mut store)
    });
    work.await.unwrap_or_else(|e| Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())))
}

/// The name of a row for one person.
fn key(person: &Person, id: u64) -> String {
    ContentId::of_bytes(format!("{}\n{id}", person.name).as_bytes()).hex()[..16].to_owned()
}

fn id_of(store: &Store, person: &Person, wanted: &str) -> Result<u64, Failure> {
    let found = (1..=store.items().len() as u64).find(|id| key(person, *id) == wanted);
    found.ok_or_else(|| Failure(StatusCode::NOT_FOUND, "there is no such row".into()))
}

fn own(item: &Item, who: &str) -> bool {
    item.checks().iter().any(|c| c.who == who)
}

/// Rows that a person may decide as the fourth.
fn may_decide(item: &Item, who: &str) -> bool {
    let decided = item.decision().and_then(|d| d.by.as_deref()) == Some(who);
    match item.stage() {
        Stage::Adjudication => item.checkers().all(|c| c != who),
        Stage::Audit => !decided && item.checkers().all(|c| c != who),
        _ => false,
    }
}

async fn me(State(server): State<Arc<Server>>, Extension(person): Extension<Person>) -> Answered {
    on_store(server, move |_, store| {
        let task = store.task();
        let (version, text) = store.guideline();
        let name = &person.name;
        let (done, left) = match person.role {
            Role::Annotator => {
                (store.ids(|i| own(i, name)).len(), store.ids(|i| i.stage() == Stage::Open && !own(i, name)).len())
            }
            _ => (
                store
                    .ids(|i| {
                        i.decision().is_some_and(|d| d.by.as_ref() == Some(name))
                            || i.audit().is_some_and(|(by, ..)| by == name)
                    })
                    .len(),
                store.ids(|i| may_decide(i, name)).len(),
            ),
        };
        Ok(Json(json!({
            "name": name, "role": person.role, "title": task.title, "rubrics": task.rubrics, "done": done, "left": left,
            "guideline": {"version": version, "text": text},
        })))
    })
    .await
}

/// A row as the page shows it; `judged` marks the text that is labelled.
fn shown(body: &Body) -> Value {
    let turn = |role: &str, text: &str, judged: bool| json!({"role": role, "text": text, "judged": judged});
    match body {
        Body::Text(text) => json!([turn("text", text, true)]),
        Body::Completion { prompt, completion } => {
            json!([turn("prompt", prompt, false), turn("completion", completion, true)])
        }
        Body::Chat(chat) => {
            let last = chat.messages.iter().rposition(loar_text::Message::is_assistant);
            let turns = chat.messages.iter().enumerate().map(|(i, m)| {
                let mut turn = turn(&m.role, &m.content, Some(i) == last);
                turn["thinking"] = json!(m.reasoning_content);
                if !m.tool_calls.is_empty() {
                    turn["calls"] = json!(serde_json::to_string_pretty(&m.tool_calls).unwrap_or_default());
                }
                turn
            });
            turns.collect()
        }
    }
}

async fn queue(State(server): State<Arc<Server>>, Extension(person): Extension<Person>) -> Answered {
    on_store(server, move |server, store| {
        let (done, open) = match person.role {
            Role::Annotator => (own_rows(store, &person)?, next_rows(server, store, &person)?),
            Role::Adjudicator => (Vec::new(), undecided(store, &person)?),
            Role::Admin => (Vec::new(), Vec::new()),
        };
        Ok(Json(json!({"done": done, "open": open})))
    })
    .await
}

fn own_rows(store: &Store, person: &Person) -> Result<Vec<Value>, Failure> {
    let mut rows: Vec<(u64, u64)> = store
        .ids(|item| own(item, &person.name))
        .into_iter()
        .filter_map(|id| {
            let check = store.item(id).ok()?.checks().iter().find(|c| c.who == person.name)?;
            Some((check.seq, id))
        })
        .collect();
    rows.sort_unstable();
    let newest = rows.len().saturating_sub(BEHIND);
    let of = |(_, id): &(u64, u64)| {
        let item = store.item(*id)?;
        let own = item.checks().iter().find(|c| c.who == person.name).map(|c| &c.answer);
        let body = store.body(*id)?;
        Ok(
            json!({"id": key(person, *id), "kind": "check", "turns": shown(&body), "answer": answer_of(&body), "own": own}),
        )
    };
    rows[newest..].iter().map(of).collect()
}

/// The next rows for an annotator, each kept for them for a while; every so many is gold.
fn next_rows(server: &Server, store: &Store, person: &Person) -> Result<Vec<Value>, Failure> {
    let name = &person.name;
    let mut leases = lock(&server.leases);
    let now = Instant::now();
    // their own from before are given back: what they get now is chosen anew
    leases.retain(|_, holders| {
        holders.retain(|(who, since)| who != name && now.duration_since(*since) < LEASE);
        !holders.is_empty()
    });
    let mut open = store
        .ids(|item| item.stage() == Stage::Open && !own(item, name))
        .into_iter()
        .filter(|id| {
            let others = leases.get(id).into_iter().flatten();
            let waiting = others.filter(|(who, _)| store.item(*id).is_ok_and(|item| !own(item, who))).count();
            store.item(*id).is_ok_and(|item| item.checks().len() + waiting < CHECKS)
        })
        .peekable();
    let mut gold = store.ids(|item| item.stage() == Stage::Gold && !own(item, name));
    gold.sort_by_cached_key(|id| std::cmp::Reverse(key(person, *id)));
    let every = store.task().gold_every;
    // where in each stretch the gold row stands differs from person to person
    let offset = usize::from_str_radix(&key(person, 0)[..4], 16).unwrap_or(0) % every;
    let done = store.ids(|item| own(item, name)).len();
    let mut chosen = Vec::new();
    for slot in done..done + AHEAD {
        // gold is mixed in, never left over as a tail of its own
        let next = if slot % every == offset && open.peek().is_some() { gold.pop() } else { None };
        chosen.extend(next.or_else(|| open.next()));
    }
    drop(open);
    for id in &chosen {
        leases.entry(*id).or_default().push((name.clone(), now));
    }
    let of = |id: u64| {
        let body = store.body(id)?;
        Ok(json!({"id": key(person, id), "kind": "check", "turns": shown(&body), "answer": answer_of(&body)}))
    };
    chosen.into_iter().map(of).collect()
}

/// Rows for the fourth person: disagreements with the checks side by side, and audits, blind.
fn undecided(store: &Store, person: &Person) -> Result<Vec<Value>, Failure> {
    let ids = store.ids(|item| may_decide(item, &person.name)).into_iter().take(AHEAD);
    let of = |id: u64| {
        let (item, body) = (store.item(id)?, store.body(id)?);
        let mut row = json!({"id": key(person, id), "kind": "adjudicate", "answer": answer_of(&body)});
        if item.stage() == Stage::Audit {
            let correction = item.decision().and_then(|d| d.answer.correction.clone());
            let body = correction.map_or(body.clone(), |text| corrected(body, &text));
            row["kind"] = json!("audit");
            row["answer"] = json!(answer_of(&body));
            row["turns"] = shown(&body);
        } else {
            // neither names nor the order of arrival
            let mut checks: Vec<_> = item.checks().iter().collect();
            checks.sort_by_cached_key(|c| ContentId::of_bytes(format!("{id}\n{}", c.who).as_bytes()).hex());
            row["checks"] = checks.iter().map(|c| json!(c.answer)).collect();
            row["opinion"] = json!(judge::opinion(item));
            row["posterior"] = json!(item.gate().map(|g| g.posterior));
            row["turns"] = shown(&body);
        }
        Ok(row)
    };
    ids.map(of).collect()
}

async fn report(State(server): State<Arc<Server>>, Extension(person): Extension<Person>) -> Answered {
    if person.role == Role::Annotator {
        return Err(Failure(StatusCode::FORBIDDEN, "agreement is shown to adjudicators and admins".into()));
    }
    let shared = server.clone();
    let (task, state, head) =
        on_store(server, |_, store| Ok((store.task().clone(), store.state().clone(), store.head().clone()))).await?;
    if let Some((hash, report)) = &*lock(&shared.report)
        && *hash == head.hash
    {
        return Ok(Json(report.clone()));
    }
    // a bootstrap takes a while: not under the store's lock
    let made = tokio::task::spawn_blocking(move || {
        let report = serde_json::to_value(Report::new(&task, &state, &head));
        report.map(|report| (head.hash, report)).map_err(|e| e.to_string())
    });
    let made = made.await.unwrap_or_else(|e| Err(e.to_string()));
    let made = made.map_err(|e| Failure(StatusCode::INTERNAL_SERVER_ERROR, e))?;
    *lock(&shared.report) = Some(made.clone());
    Ok(Json(made.1))
}

/// What a page sends.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    id: String,
    answer: Answer,
    seconds: f64,
    guideline: String,
    #[serde(default)]
    keep: Option<bool>,
}

impl Sent {
    /// A day at most: a page that slept is no work.
    fn seconds(&self) -> u32 {
        self.seconds.clamp(0.0, 86_400.0) as u32
    }
}

async fn check(
    State(server): State<Arc<Server>>,
    Extension(person): Extension<Person>,
    Json(sent): Json<Sent>,
) -> Answered {
    on_store(server, move |server, store| {
        let id = id_of(store, &person, &sent.id)?;
        let seconds = sent.seconds();
        store.check(&person.name, id, sent.answer, seconds, &sent.guideline)?;
        if let Some(holders) = lock(&server.leases).get_mut(&id) {
            holders.retain(|(who, _)| *who != person.name);
        }
        Ok(Json(json!({"ok": true})))
    })
    .await
}

async fn adjudicate(
    State(server): State<Arc<Server>>,
    Extension(person): Extension<Person>,
    Json(sent): Json<Sent>,
) -> Answered {
    on_store(server, move |_, store| {
        let id = id_of(store, &person, &sent.id)?;
        let (keep, seconds) = (sent.keep.unwrap_or(true), sent.seconds());
        store.adjudicate(&person.name, id, sent.answer, keep, seconds, &sent.guideline)?;
        Ok(Json(json!({"ok": true})))
    })
    .await
}

async fn audit(
    State(server): State<Arc<Server>>,
    Extension(person): Extension<Person>,
    Json(sent): Json<Sent>,
) -> Answered {
    on_store(server, move |_, store| {
        let id = id_of(store, &person, &sent.id)?;
        let seconds = sent.seconds();
        store.audit(&person.name, id, sent.answer, seconds, &sent.guideline)?;
        Ok(Json(json!({"ok": true})))
    })
    .await
}
