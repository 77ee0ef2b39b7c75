fn main() {
    let a: Vec<String> = std::env::args().collect();
    let base = a.get(2).map(std::path::PathBuf::from);
    match loar_model::golden::check(a[1].as_ref(), base.as_deref(), &Default::default()) {
        Err(e) => println!("{e}"),
        Ok(r) => for c in &r.comparisons { if std::env::var("ALL").is_ok() || !c.ok || !c.name.contains('.') || c.name.contains("logits") { println!("{:<70} {:9.2e} {:9.2e} {}", c.name, c.max_abs, c.max_rel, c.ok) } },
    }
}
