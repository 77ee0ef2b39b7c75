//! The structures of `parquet.thrift` as far as the decoder reads them, by field id.
//!
//! A table only. The decoder takes a field for what its id says, whatever type the file writes
//! next to it; so a walk that follows the written types alone would see other lists than it does.

/// What a field holds.
pub(crate) enum Kind {
    /// i16, i32, i64: one varint each.
    Whole,
    Byte,
    Truth,
    Double,
    /// Text or bytes.
    Text,
    List(&'static Kind),
    Fields(&'static [(i16, Kind)]),
}

use Kind::{Byte, Double, Fields, List, Text, Truth, Whole};

const EMPTY: Kind = Fields(&[]);

const STATISTICS: Kind =
    Fields(&[(1, Text), (2, Text), (3, Whole), (4, Whole), (5, Text), (6, Text), (7, Truth), (8, Truth)]);

const TIME: Kind = Fields(&[(1, Truth), (2, Fields(&[(1, EMPTY), (2, EMPTY), (3, EMPTY)]))]);

const LOGICAL_TYPE: Kind = Fields(&[
    (1, EMPTY),
    (2, EMPTY),
    (3, EMPTY),
    (4, EMPTY),
    (5, Fields(&[(1, Whole), (2, Whole)])),
    (6, EMPTY),
    (7, TIME),
    (8, TIME),
    (10, Fields(&[(1, Byte), (2, Truth)])),
    (11, EMPTY),
    (12, EMPTY),
    (13, EMPTY),
    (14, EMPTY),
    (15, EMPTY),
    (16, Fields(&[(1, Byte)])),
    (17, Fields(&[(1, Text)])),
    (18, Fields(&[(1, Text), (2, Whole)])),
]);

const SCHEMA_ELEMENT: Kind = Fields(&[
    (1, Whole),
    (2, Whole),
    (3, Whole),
    (4, Text),
    (5, Whole),
    (6, Whole),
    (7, Whole),
    (8, Whole),
    (9, Whole),
    (10, LOGICAL_TYPE),
]);

const KEY_VALUE: Kind = Fields(&[(1, Text), (2, Text)]);

const SIZE_STATISTICS: Kind = Fields(&[(1, Whole), (2, List(&Whole)), (3, List(&Whole))]);

const BOUNDING_BOX: Kind =
    Fields(&[(1, Double), (2, Double), (3, Double), (4, Double), (5, Double), (6, Double), (7, Double), (8, Double)]);

const COLUMN_METADATA: Kind = Fields(&[
    (1, Whole),
    (2, List(&Whole)),
    (3, List(&Text)),
    (4, Whole),
    (5, Whole),
    (6, Whole),
    (7, Whole),
    (8, List(&KEY_VALUE)),
    (9, Whole),
    (10, Whole),
    (11, Whole),
    (12, STATISTICS),
    (13, List(&Fields(&[(1, Whole), (2, Whole), (3, Whole)]))),
    (14, Whole),
    (15, Whole),
    (16, SIZE_STATISTICS),
    (17, Fields(&[(1, BOUNDING_BOX), (2, List(&Whole))])),
]);

const COLUMN: Kind =
    Fields(&[(1, Text), (2, Whole), (3, COLUMN_METADATA), (4, Whole), (5, Whole), (6, Whole), (7, Whole)]);

const ROW_GROUP: Kind = Fields(&[
    (1, List(&COLUMN)),
    (2, Whole),
    (3, Whole),
    (4, List(&Fields(&[(1, Whole), (2, Truth), (3, Truth)]))),
    (5, Whole),
    (6, Whole),
    (7, Whole),
]);

/// `FileMetaData`. Encryption (8, 9) is not read here and not by the decoder as it is built.
pub(crate) const FOOTER: &[(i16, Kind)] = &[
    (1, Whole),
    (2, List(&SCHEMA_ELEMENT)),
    (3, Whole),
    (4, List(&ROW_GROUP)),
    (5, List(&KEY_VALUE)),
    (6, Text),
    (7, List(&Fields(&[(1, EMPTY)]))),
];

/// `PageHeader`.
pub(crate) const PAGE_HEADER: &[(i16, Kind)] = &[
    (1, Whole),
    (2, Whole),
    (3, Whole),
    (4, Whole),
    (5, Fields(&[(1, Whole), (2, Whole), (3, Whole), (4, Whole), (5, STATISTICS)])),
    (6, EMPTY),
    (7, Fields(&[(1, Whole), (2, Whole), (3, Truth)])),
    (8, Fields(&[(1, Whole), (2, Whole), (3, Whole), (4, Whole), (5, Whole), (6, Whole), (7, Truth), (8, STATISTICS)])),
];
