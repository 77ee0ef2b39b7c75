//! Parquet → rows through the record API: lists, structs and maps become JSON values, strings are
//! moved, not copied, where the API allows. Without arrow. The decoder is third-party code that
//! may panic on damaged pages; such a panic ends the file with a fault.

use std::panic::{AssertUnwindSafe, catch_unwind};

use parquet::file::metadata::ParquetMetaDataReader;
use parquet::file::reader::{ChunkReader, FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::{Map, Number, Value};

use crate::fault::{FaultKind, RowFault};
use crate::parquet_guard;
use crate::rows::{RawRow, Sink};

/// Hands every row of the file to `sink`; `max_unpacked` bounds what the footer announces and what
/// the rows add up to.
pub(crate) fn parquet<R: ChunkReader + 'static>(
    file: R,
    max_row: usize,
    max_unpacked: u64,
    max_ratio: u64,
    sink: Sink<'_>,
) -> Result<(), RowFault> {
    let broken = |found: String| RowFault::new("", FaultKind::BrokenParquet, found);
    parquet_guard::footer(&file).map_err(broken)?;
    let metadata = ParquetMetaDataReader::new();
    let metadata = catch_unwind(AssertUnwindSafe(|| metadata.parse_and_finish(&file)));
    // What the decoder cannot read here it reports below.
    if let Ok(Ok(metadata)) = metadata {
        parquet_guard::pages(&file, &metadata, max_ratio).map_err(broken)?;
    }
    let opened = catch_unwind(AssertUnwindSafe(|| SerializedFileReader::new(file)));
    let reader = opened
        .map_err(|_| broken("a footer that the decoder cannot follow".into()))?
        .map_err(|error| broken(short(&error.to_string())))?;
    let metadata = reader.metadata();
    let announced = metadata.file_metadata().num_rows();
    let unpacked: u64 = metadata.row_groups().iter().map(|group| group.total_byte_size().max(0) as u64).sum();
    if unpacked > max_unpacked {
        let found = format!("{unpacked} bytes announced where at most {max_unpacked} are allowed");
        return Err(RowFault::new("", FaultKind::TooLarge, found));
    }
    let rows = catch_unwind(AssertUnwindSafe(|| reader.get_row_iter(None)));
    let mut rows = rows
        .map_err(|_| broken("a schema that the decoder cannot follow".into()))?
        .map_err(|error| broken(short(&error.to_string())))?;
    let mut number = 0_usize;
    // Run lengths let a small file repeat one row without end.
    let mut unpacked = 0_u64;
    loop {
        let next = catch_unwind(AssertUnwindSafe(|| rows.next()));
        let row = match next {
            Err(_) => {
                return Err(broken(format!("a page that cannot be decoded after row {number}")));
            }
            Ok(None) => break,
            Ok(Some(Err(error))) => {
                return Err(broken(format!("after row {number}: {}", short(&error.to_string()))));
            }
            Ok(Some(Ok(row))) => row,
        };
        number += 1;
        let mut size = 0;
        let value = object(row, &mut size);
        unpacked = unpacked.saturating_add(size as u64);
        if unpacked > max_unpacked {
            let found = format!("more than {max_unpacked} bytes up to row {number}");
            return Err(RowFault::new("", FaultKind::TooLarge, found));
        }
        let value = if size > max_row {
            let found = format!("{size} bytes where at most {max_row} are allowed");
            Err(RowFault::new("", FaultKind::RowTooLong, found))
        } else {
            value
        };
        sink(RawRow { line: number, value });
    }
    if i64::try_from(number).ok() != Some(announced) {
        return Err(broken(format!("{number} rows where the footer announces {announced}")));
    }
    Ok(())
}

fn object(row: Row, size: &mut usize) -> Result<Map<String, Value>, RowFault> {
    let mut map = Map::new();
    for (name, field) in row.into_columns() {
        let value = match field {
            // The common case, moved out without a copy.
            Field::Str(text) => {
                *size += text.len();
                Value::String(text)
            }
            field => value(&field, size).map_err(|fault| RowFault { field: name.clone(), ..fault })?,
        };
        map.insert(name, value);
    }
    Ok(map)
}

fn value(field: &Field, size: &mut usize) -> Result<Value, RowFault> {
    *size += 8;
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(v) => Value::Bool(*v),
        Field::Byte(v) => Value::Number((*v).into()),
        Field::Short(v) => Value::Number((*v).into()),
        Field::Int(v) => Value::Number((*v).into()),
        Field::Long(v) => Value::Number((*v).into()),
        Field::UByte(v) => Value::Number((*v).into()),
        Field::UShort(v) => Value::Number((*v).into()),
        Field::UInt(v) => Value::Number((*v).into()),
        Field::ULong(v) => Value::Number((*v).into()),
        Field::Float(v) => number(f64::from(*v)),
        Field::Double(v) => number(*v),
        Field::Str(text) => {
            *size += text.len();
            Value::String(text.clone())
        }
        Field::Bytes(bytes) => {
            *size += bytes.len();
            match std::str::from_utf8(bytes.data()) {
                Ok(text) => Value::String(text.to_owned()),
                Err(error) => {
                    let found =
                        format!("a binary value of {} bytes, wrong from byte {}", bytes.len(), error.valid_up_to() + 1);
                    return Err(RowFault::new("", FaultKind::InvalidUtf8, found));
                }
            }
        }
        Field::Group(row) => {
            let mut map = Map::new();
            for (name, field) in row.get_column_iter() {
                map.insert(name.clone(), value(field, size)?);
            }
            Value::Object(map)
        }
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(|field| value(field, size)).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(pairs) => {
            let mut map = Map::new();
            for (key, field) in pairs.entries() {
                let key = match key {
                    Field::Str(text) => text.clone(),
                    other => other.to_string(),
                };
                map.insert(key, value(field, size)?);
            }
            Value::Object(map)
        }
        // Dates, times and decimals carry no training text; their printed form serves `keep`.
        other => Value::String(other.to_string()),
    })
}

fn number(v: f64) -> Value {
    Number::from_f64(v).map_or(Value::Null, Value::Number)
}

fn short(text: &str) -> String {
    text.chars().take(160).map(|c| if c.is_control() { ' ' } else { c }).collect()
}
