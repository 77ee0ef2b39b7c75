//! What a row is compared by: the exact key and the band keys of its shingles, as columns of the
//! batch, a pure function of the row. Whether two rows that share a key are alike is decided later
//! over all rows, in [`super::cluster`].

use std::sync::Arc;

use arrow_array::builder::{FixedSizeListBuilder, UInt64Builder};
use arrow_array::{ArrayRef, UInt64Array};
use arrow_schema::{DataType, Field as ArrowField, FieldRef};
use loar_kernels::minhash::MinHash;
use serde::{Deserialize, Serialize};

use super::banding::Banding;
use super::shingle::{Tokens, mix};
use crate::batch::{Batch, Row};
use crate::operator::{Operator, Outcome};

/// Which texts of a row are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compared {
    /// Requests and responses.
    #[default]
    Pair,
    /// Requests alone.
    Request,
    /// Responses alone.
    Response,
}

impl Compared {
    /// Tokens of those texts.
    pub fn tokens(self, row: &Row<'_>, tokens: &mut Tokens) {
        tokens.clear();
        for turn in row.turns() {
            let taken = match self {
                Compared::Pair => turn.is_request() || turn.is_response(),
                Compared::Request => turn.is_request() || turn.role == crate::batch::TEXT,
                Compared::Response => turn.is_response(),
            };
            if taken {
                tokens.add(turn.content);
            }
        }
    }
}

/// The stage that adds the columns `<name>_key` (one `u64`) and `<name>_bands` (a `u64` a band).
#[derive(Clone, Debug)]
pub struct Keys {
    name: &'static str,
    compared: Compared,
    shingle: usize,
    banding: Banding,
    family: MinHash,
}

impl Keys {
    /// Keys under a name, of shingles of `shingle` tokens.
    pub fn new(name: &'static str, compared: Compared, shingle: usize, banding: Banding, seed: u64) -> Self {
        Keys { name, compared, shingle, banding, family: MinHash::new(banding.functions(), seed) }
    }

    /// Names of the two columns.
    pub fn columns(&self) -> [String; 2] {
        [format!("{}_key", self.name), format!("{}_bands", self.name)]
    }

    /// Bands a row has.
    pub fn bands(&self) -> usize {
        self.banding.bands
    }

    /// The sorted set of a row's shingles.
    pub fn shingles(&self, row: &Row<'_>, tokens: &mut Tokens) -> Vec<u32> {
        let mut shingles = Vec::new();
        self.compared.tokens(row, tokens);
        tokens.shingles(self.shingle, &mut shingles);
        shingles.sort_unstable();
        shingles.dedup();
        shingles
    }
}

impl Operator for Keys {
    fn name(&self) -> &'static str {
        self.name
    }

    fn version(&self) -> u32 {
        1
    }

    fn apply(&self, batch: &Batch) -> Outcome {
        let (mut tokens, mut shingles) = (Tokens::default(), Vec::new());
        let mut signature = vec![0; self.banding.functions()];
        let mut keys = Vec::with_capacity(batch.len());
        let mut bands = FixedSizeListBuilder::new(UInt64Builder::new(), self.banding.bands as i32)
            .with_field(ArrowField::new("item", DataType::UInt64, false));
        for row in batch.rows() {
            self.compared.tokens(&row, &mut tokens);
            // Rows without a token have nothing to be compared by: each is given keys of its own.
            let salt = if tokens.is_empty() { mix(row.number() + 1) } else { 0 };
            keys.push(tokens.key() ^ salt);
            tokens.shingles(self.shingle, &mut shingles);
            self.family.sign(&shingles, &mut signature);
            for (at, band) in signature.chunks_exact(self.banding.rows).enumerate() {
                let hash = band.iter().fold(at as u64, |h, value| mix(h ^ u64::from(*value)));
                bands.values().append_value(hash ^ salt);
            }
            bands.append(true);
        }
        let [key, band] = self.columns();
        let bands = bands.finish();
        let field = |name: String, kind: DataType| -> FieldRef { Arc::new(ArrowField::new(name, kind, false)) };
        use arrow_array::Array;
        let band_type = bands.data_type().clone();
        let columns: Vec<(FieldRef, ArrayRef)> = vec![
            (field(key, DataType::UInt64), Arc::new(UInt64Array::from(keys))),
            (field(band, band_type), Arc::new(bands)),
        ];
        Outcome { columns, ..Outcome::default() }
    }
}
