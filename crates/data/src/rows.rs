//! The seam between containers and schemas: a container reader pushes [`RawRow`]s into a sink and
//! returns a [`RowFault`] only when the rest of the file is lost.

use serde_json::{Map, Value};

use crate::fault::RowFault;

/// One row as the container gives it.
#[derive(Clone, Debug)]
pub(crate) struct RawRow {
    /// Line (Parquet: row number), from 1.
    pub line: usize,
    /// Named values, or why there are none.
    pub value: Result<Map<String, Value>, RowFault>,
}

impl RawRow {
    pub fn bad(line: usize, fault: RowFault) -> Self {
        RawRow { line, value: Err(fault) }
    }
}

/// Takes the rows of one file in order.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(RawRow);
