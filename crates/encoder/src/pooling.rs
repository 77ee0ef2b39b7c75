//! States of a text's tokens to one vector.

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// The first token's state.
    Cls,
    /// The largest value of each place.
    Max,
    /// The mean over all tokens.
    Mean,
    /// The sum over all tokens by the root of their number.
    MeanSqrtLen,
}

const NAMES: [(&str, Mode); 4] =
    [("cls", Mode::Cls), ("max", Mode::Max), ("mean", Mode::Mean), ("mean_sqrt_len_tokens", Mode::MeanSqrtLen)];

impl Mode {
    pub(crate) fn by_name(name: &str) -> Option<Mode> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, mode)| *mode)
    }

    pub(crate) fn names() -> String {
        NAMES.map(|(name, _)| name).join(", ")
    }

    /// states `[t, width]` → out `[width]`.
    fn pool(self, states: &[f32], out: &mut [f32]) {
        let width = out.len();
        out.copy_from_slice(&states[..width]);
        for row in states.chunks_exact(width).skip(1) {
            match self {
                Mode::Cls => return,
                Mode::Max => out.iter_mut().zip(row).for_each(|(o, x)| *o = o.max(*x)),
                Mode::Mean | Mode::MeanSqrtLen => out.iter_mut().zip(row).for_each(|(o, x)| *o += x),
            }
        }
        let tokens = (states.len() / width) as f32;
        match self {
            Mode::Mean => out.iter_mut().for_each(|o| *o /= tokens),
            Mode::MeanSqrtLen => out.iter_mut().for_each(|o| *o /= tokens.sqrt()),
            Mode::Cls | Mode::Max => {}
        }
    }
}

/// The vector of a text from its tokens' states `[t, width]`: each mode's, side by side.
pub(crate) fn pool(modes: &[Mode], normalise: bool, states: &[f32], width: usize) -> Vec<f32> {
    let mut vector = vec![0.0; modes.len() * width];
    for (mode, out) in modes.iter().zip(vector.chunks_exact_mut(width)) {
        mode.pool(states, out);
    }
    if normalise {
        let norm = vector.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt().max(1e-12);
        vector.iter_mut().for_each(|v| *v = (f64::from(*v) / norm) as f32);
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_on_three_tokens() {
        let states = [1.0, -2.0, 4.0, 0.0, 1.0, -4.0];
        let one = |mode| pool(&[mode], false, &states, 2);
        assert_eq!(one(Mode::Cls), [1.0, -2.0]);
        assert_eq!(one(Mode::Max), [4.0, 0.0]);
        assert_eq!(one(Mode::Mean), [2.0, -2.0]);
        assert_eq!(one(Mode::MeanSqrtLen), [6.0 / 3f32.sqrt(), -6.0 / 3f32.sqrt()]);
        assert_eq!(pool(&[Mode::Cls, Mode::Mean], false, &states, 2), [1.0, -2.0, 2.0, -2.0]);
        let length: f32 = pool(&[Mode::Mean], true, &states, 2).iter().map(|v| v * v).sum();
        assert!((length - 1.0).abs() < 1e-6);
    }
}
