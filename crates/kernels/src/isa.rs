//! Which instruction set the kernels use: detected once, never assumed.
//!
//! An [`Isa`] value can only be obtained for instructions this machine has, so holding one is the proof the
//! `unsafe` calls of this crate rest on.
use std::fmt;
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Level {
    Scalar,
    Avx2,
    Avx512,
    Avx512Bf16,
    Amx,
}

static BEST: OnceLock<Isa> = OnceLock::new();

/// An instruction set this machine has. Ordered from the slowest to the fastest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Isa(Level);

impl Isa {
    /// Plain Rust; exists everywhere.
    pub const SCALAR: Isa = Isa(Level::Scalar);

    /// The fastest set of this machine (decided once, from what the processor says of itself and never from a timing,
    /// so that two runs on one machine agree).
    ///
    /// Intel's cores start a `vdpbf16ps` every second cycle but two f32 multiply-adds every cycle, so there bf16
    /// operands are multiplied as f32 (measured on Sapphire Rapids, 2 cores: 230 GFLOP/s against 370). Zen 4 and
    /// later start one of either a cycle, which makes bf16 twice as fast.
    ///
    /// Where the core has matrix tiles (AMX), bf16 products run there at 16 times the f32 rate, and everything else
    /// uses AVX-512.
    pub fn best() -> Isa {
        *BEST.get_or_init(|| {
            let slow_bf16 = is_intel();
            let sets = Isa::available().into_iter();
            sets.filter(|i| !(slow_bf16 && i.0 == Level::Avx512Bf16)).max().unwrap_or(Isa::SCALAR)
        })
    }

    /// Makes `name` what [`Isa::best`] answers for the rest of the process, to measure or to reproduce another machine.
    ///
    /// # Errors
    /// When this machine has no such set (the names it has are listed), or another choice was already used.
    pub fn force(name: &str) -> Result<Isa, String> {
        let Some(isa) = Isa::by_name(name) else {
            let have: Vec<_> = Isa::available().into_iter().map(Isa::name).collect();
            return Err(format!("this machine has no instruction set `{name}`; it has {}", have.join(", ")));
        };
        let chosen = *BEST.get_or_init(|| isa);
        if chosen == isa { Ok(isa) } else { Err(format!("kernels already run on `{chosen}`")) }
    }

    /// Every set this machine has, slowest first.
    pub fn available() -> Vec<Isa> {
        [Level::Scalar, Level::Avx2, Level::Avx512, Level::Avx512Bf16, Level::Amx]
            .into_iter()
            .filter(|l| detected(*l))
            .map(Isa)
            .collect()
    }

    /// The set called `name` (see [`Isa::name`]), if this machine has it.
    pub fn by_name(name: &str) -> Option<Isa> {
        Isa::available().into_iter().find(|i| i.name() == name)
    }

    /// Every name the registry knows, whether or not this machine has the set.
    pub const NAMES: [&'static str; 5] = ["scalar", "avx2+fma", "avx512", "avx512-bf16", "amx-bf16"];

    pub fn name(self) -> &'static str {
        Isa::NAMES[self.0 as usize]
    }

    pub(crate) fn level(self) -> Level {
        self.0
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Isa({})", self.name())
    }
}

#[cfg(target_arch = "x86_64")]
fn detected(level: Level) -> bool {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq");
    match level {
        Level::Scalar => true,
        Level::Avx2 => avx2,
        Level::Avx512 => avx512,
        Level::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
        Level::Amx => avx512 && is_x86_feature_detected!("avx512bf16") && crate::amx::available(),
    }
}

/// Leaf 0 of `cpuid` spells the vendor in ebx, edx, ecx.
#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx].map(u32::to_le_bytes).concat() == *b"GenuineIntel"
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn detected(level: Level) -> bool {
    level == Level::Scalar
}
