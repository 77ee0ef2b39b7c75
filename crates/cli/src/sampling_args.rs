//! Sampling options of the command line, over the checkpoint's own defaults.

use loar_decode::Sampling;

/// How tokens are chosen. What is not given here comes from `generation_config.json`.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Divides the logits; 0 always takes the best token [default: the checkpoint's, else 0]
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Smallest set of best tokens with this probability mass [default: the checkpoint's, else off]
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// This many best tokens [default: the checkpoint's, else off]
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,
    /// Tokens with this share of the best one's probability [default: the checkpoint's, else off]
    #[arg(long, value_name = "P")]
    min_p: Option<f64>,
    /// Seed of the draws: the same seed gives the same bytes
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tokens generated at most
    #[arg(long, value_name = "N", default_value_t = 512)]
    max_new_tokens: usize,
    /// Text that ends the answer, not printed; may be repeated
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

impl SamplingArgs {
    /// The settings, over `defaults`.
    pub fn over(&self, defaults: Sampling) -> Sampling {
        Sampling {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: self.top_k.unwrap_or(defaults.top_k),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            seed: self.seed,
            max_new_tokens: self.max_new_tokens,
            stop: self.stop.clone(),
        }
    }
}

/// Whether the prompt opens the chain of thought.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Thinking {
    /// As the template does by itself
    #[default]
    Default,
    /// Open it
    On,
    /// Close it
    Off,
}

impl Thinking {
    /// As the encoder names it.
    pub fn of_text(self) -> loar_text::Thinking {
        match self {
            Self::Default => loar_text::Thinking::Default,
            Self::On => loar_text::Thinking::On,
            Self::Off => loar_text::Thinking::Off,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_win_over_the_checkpoint() {
        let checkpoint = Sampling { temperature: 0.6, top_p: 0.95, ..Sampling::default() };
        let args = SamplingArgs { temperature: Some(0.0), max_new_tokens: 5, ..SamplingArgs::default() };
        let s = args.over(checkpoint);
        assert_eq!((s.temperature, s.top_p, s.max_new_tokens), (0.0, 0.95, 5));
    }
}
