//! Which rows each optimizer step takes: epochs in seeded order, cut into batches of rows or tokens.
//!
//! Takes row lengths and a seed, gives batches. The place in the stream of rows is one number, the
//! cursor, so that a resumed run goes on exactly where the checkpoint was.

use loar_kernels::rng::Stream;

/// Names the use of randomness, apart from those of initialisation and dropout.
const PURPOSE_ORDER: u32 = 0x0D3E;

/// The endless stream of rows: epoch after epoch, each in its own order.
#[derive(Clone, Debug)]
pub struct Order {
    /// Rows of each stage, in the order of an epoch; one stage of all rows without a curriculum.
    stages: Vec<Vec<usize>>,
    /// Rows of an epoch.
    rows: usize,
    seed: u64,
    shuffle: bool,
    /// The epoch whose permutation is at hand.
    epoch: Option<(u64, Vec<usize>)>,
}

impl Order {
    /// Order of `rows` rows; without `shuffle` the order of the files in every epoch.
    pub fn new(rows: usize, seed: u64, shuffle: bool) -> Order {
        Order::staged(vec![(0..rows).collect()], seed, shuffle)
    }

    /// Stages after one another in every epoch; `shuffle` is inside of each.
    pub fn staged(stages: Vec<Vec<usize>>, seed: u64, shuffle: bool) -> Order {
        let rows = stages.iter().map(Vec::len).sum();
        Order { stages, rows, seed, shuffle, epoch: None }
    }

    /// Rows of an epoch.
    pub fn epoch_rows(&self) -> usize {
        self.rows
    }

    /// Rows of one epoch in their order.
    fn epoch(&self, epoch: u64) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.rows);
        for (at, stage) in self.stages.iter().enumerate() {
            // the low 32 bits tell 2^32 epochs apart; each stage has a purpose of its own
            let stream = Stream::new(self.seed, PURPOSE_ORDER.wrapping_add((at as u32) << 16), epoch as u32);
            match self.shuffle {
                true => order.extend(stream.permutation(stage.len()).into_iter().map(|row| stage[row])),
                false => order.extend(stage),
            }
        }
        order
    }

    /// The row at `cursor` of the stream. Panics when there are no rows: a bug of the caller.
    pub fn row(&mut self, cursor: u64) -> usize {
        let (epoch, at) = (cursor / self.rows as u64, (cursor % self.rows as u64) as usize);
        match &self.epoch {
            Some((e, order)) if *e == epoch => order[at],
            _ => {
                let order = self.epoch(epoch);
                let row = order[at];
                self.epoch = Some((epoch, order));
                row
            }
        }
    }
}

/// How large an optimizer step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchSize {
    /// So many rows.
    Rows(usize),
    /// Rows until so many tokens are reached.
    Tokens(usize),
}

/// How long the run is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Length {
    /// So many passes over the rows; the last step may be smaller.
    Epochs(f64),
    /// So many steps, however many epochs they take.
    Steps(usize),
}

/// The batches of a run.
#[derive(Clone, Debug)]
pub struct Batches {
    order: Order,
    lengths: Vec<usize>,
    size: BatchSize,
    /// Rows of the stream that the run may take.
    limit: Option<u64>,
    /// Steps of the run.
    steps: usize,
}

impl Batches {
    /// Batches over rows of these token lengths.
    pub fn new(lengths: Vec<usize>, order: Order, size: BatchSize, length: Length) -> Batches {
        let rows = order.epoch_rows();
        let mut batches = Batches { order, lengths, size, limit: None, steps: 0 };
        match length {
            Length::Steps(steps) => batches.steps = steps,
            Length::Epochs(epochs) => {
                batches.limit = Some(((rows as f64 * epochs).round() as u64).max(1));
                let mut counted = batches.clone();
                let mut cursor = 0;
                while let Some((_, next)) = counted.at(cursor) {
                    cursor = next;
                    batches.steps += 1;
                }
            }
        }
        batches
    }

    /// Optimizer steps of the run.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Rows of the step that begins at `cursor`, and the cursor of the next one; `None` behind the
    /// last row.
    pub fn at(&mut self, cursor: u64) -> Option<(Vec<usize>, u64)> {
        let (mut rows, mut tokens, mut next) = (Vec::new(), 0, cursor);
        while self.limit.is_none_or(|limit| next < limit) {
            let full = match self.size {
                BatchSize::Rows(n) => rows.len() >= n,
                BatchSize::Tokens(n) => tokens >= n,
            };
            if full && !rows.is_empty() {
                break;
            }
            let row = self.order.row(next);
            tokens += self.lengths[row];
            rows.push(row);
            next += 1;
        }
        (!rows.is_empty()).then_some((rows, next))
    }

    /// Epochs done at `cursor`.
    pub fn epoch(&self, cursor: u64) -> f64 {
        cursor as f64 / self.order.epoch_rows() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(mut b: Batches) -> Vec<Vec<usize>> {
        let (mut out, mut cursor) = (Vec::new(), 0);
        while let Some((rows, next)) = b.at(cursor) {
            out.push(rows);
            cursor = next;
        }
        out
    }

    #[test]
    fn every_epoch_holds_every_row_once_in_another_order() {
        let b = Batches::new(vec![1; 17], Order::new(17, 7, true), BatchSize::Rows(5), Length::Epochs(3.0));
        assert_eq!(b.steps(), 11); // ceil(51 / 5)
        let rows: Vec<usize> = all(b).concat();
        assert_eq!(rows.len(), 51);
        let epochs: Vec<&[usize]> = rows.chunks(17).collect();
        for epoch in &epochs {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..17).collect::<Vec<_>>());
        }
        assert_ne!(epochs[0], epochs[1]);
        assert_ne!(epochs[1], epochs[2]);
    }

    #[test]
    fn stages_follow_one_another_in_every_epoch() {
        let stages = vec![vec![4, 5, 6, 7], vec![0, 1, 4], vec![2, 3]];
        let make = |seed| {
            Batches::new(vec![1; 8], Order::staged(stages.clone(), seed, true), BatchSize::Rows(2), Length::Epochs(2.0))
        };
        let rows: Vec<usize> = all(make(3)).concat();
        assert_eq!(rows.len(), 18);
        for epoch in rows.chunks(9) {
            let mut at = 0;
            for stage in &stages {
                let mut taken = epoch[at..at + stage.len()].to_vec();
                taken.sort_unstable();
                assert_eq!(taken, *stage);
                at += stage.len();
            }
        }
        assert_eq!(rows, all(make(3)).concat());
        assert_ne!(rows, all(make(4)).concat());
        assert_eq!(make(3).epoch(9), 1.0);
        // entered at any place, the stream goes on the same
        let mut straight = make(3);
        let mut cursor = 0;
        while let Some((rows, next)) = straight.at(cursor) {
            assert_eq!(make(3).at(cursor), Some((rows, next)));
            cursor = next;
        }
    }

    #[test]
    fn any_cursor_can_be_entered_afresh() {
        let make = || Batches::new(vec![3; 10], Order::new(10, 1, true), BatchSize::Rows(3), Length::Epochs(2.5));
        let mut cursor = 0;
        let mut straight = make();
        while let Some((rows, next)) = straight.at(cursor) {
            assert_eq!(make().at(cursor), Some((rows, next)));
            cursor = next;
        }
        assert_eq!(cursor, 25);
    }

    #[test]
    fn token_batches_close_when_the_number_is_reached() {
        let b = Batches::new(vec![4, 9, 2, 2, 7], Order::new(5, 0, false), BatchSize::Tokens(8), Length::Epochs(1.0));
        assert_eq!(b.steps(), 2);
        assert_eq!(all(b), [vec![0, 1], vec![2, 3, 4]]);
    }

    #[test]
    fn steps_run_past_the_last_row() {
        let mut b = Batches::new(vec![1; 3], Order::new(3, 0, false), BatchSize::Rows(2), Length::Steps(100));
        assert_eq!(b.steps(), 100);
        assert_eq!(b.at(2), Some((vec![2, 0], 4)));
    }
}
