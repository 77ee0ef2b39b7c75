//! `loar selftest`: every numeric kernel this machine would run, against its reference.

use std::process::ExitCode;

use loar_kernels::Isa;
use loar_kernels::registry;
use serde_json::json;

use crate::console::{Console, Style};
use crate::diagnose::Failure;
use crate::table::Table;

/// Check every numeric kernel of this machine against its plain reference
///
/// Exits with 1 when a kernel is beyond its tolerance.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args, console: &mut Console) -> Result<ExitCode, Failure> {
    let rows = registry::selftest();
    let bad = rows.iter().filter(|r| !r.ok).count();
    let best = Isa::best().name();
    if args.json {
        let list: Vec<_> = rows
            .iter()
            .map(|r| {
                json!({"op": r.op, "variant": r.variant, "max_error": r.max_error, "tolerance": r.tolerance,
                "unit": r.unit, "ok": r.ok, "used": r.variant == best})
            })
            .collect();
        console.line(json!({"ok": bad == 0, "used": best, "results": list}))?;
    } else {
        let mut table = Table::new(&[
            console.pick("operation", "运算").to_owned(),
            console.pick("variant", "变体").to_owned(),
            format!(">{}", console.pick("largest error", "最大误差")),
            format!(">{}", console.pick("tolerance", "容差")),
            console.pick("measured as", "度量").to_owned(),
            console.pick("verdict", "结论").to_owned(),
        ]);
        for r in &rows {
            let used = if r.variant == best { " *" } else { "" };
            table.row([
                r.op.to_owned(),
                format!("{}{used}", r.variant),
                format!("{:.2e}", r.max_error),
                format!("{:.1e}", r.tolerance),
                r.unit.to_owned(),
                console.pick(if r.ok { "ok" } else { "FAILED" }, if r.ok { "通过" } else { "失败" }).to_owned(),
            ]);
        }
        console.write(table.render(0))?;
        console.line(format_args!("* {}", console.pick("used on this machine", "本机使用的变体")))?;
        let (style, text) = match bad {
            0 => (
                Style::Green,
                console.pick("every kernel agrees with its reference", "所有内核均与参考实现一致").to_owned(),
            ),
            n => (Style::Red, format!("{n} {}", console.pick("kernels are beyond their tolerance", "个内核超出容差"))),
        };
        console.line(console.paint(style, text))?;
    }
    Ok(ExitCode::from(u8::from(bad > 0)))
}
