//! Sizes that a Parquet file only claims, checked before the decoder allocates what they say.
//!
//! Takes the file, gives a fault for a list longer than the bytes behind it, a page that claims to
//! unpack to far more than it has, or a dictionary with more entries than bytes. A file of 600
//! bytes could otherwise ask for gigabytes. Never decodes a value; a file it lets pass may still be
//! broken. Encoding: Thrift's compact protocol, `parquet.thrift` of the Parquet format.

use bytes::Bytes;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::ChunkReader;

use crate::parquet_layout::{FOOTER, Kind, PAGE_HEADER};

/// Deepest nesting; the footer of the format has 6.
const MAX_DEPTH: usize = 32;
/// A page may unpack to this much whatever its packed size. Writers aim at 1 MiB.
const PAGE_FLOOR: u64 = 16 << 20;
/// Bytes of a chunk looked at for a page header; grown when one is longer (long minima and maxima).
const WINDOW: u64 = 4 << 10;
/// The length of the footer and `PAR1`.
const TAIL: u64 = 8;

/// Walks the footer: every list and text it announces must fit into its bytes.
///
/// # Errors
/// What is wrong, or a failure to read.
pub(crate) fn footer<R: ChunkReader>(file: &R) -> Result<(), String> {
    let length = file.len();
    let Some(tail_start) = length.checked_sub(TAIL) else { return Ok(()) }; // the decoder says it better
    let tail = get(file, tail_start, TAIL)?;
    let claimed = tail.first_chunk::<4>().map_or(0, |b| u64::from(u32::from_le_bytes(*b)));
    let Some(start) = tail_start.checked_sub(claimed) else { return Ok(()) };
    let bytes = get(file, start, claimed)?;
    let mut walk = Walk { rest: &bytes, depth: 0 };
    walk.structure(FOOTER, &mut |_, _| ()).ok_or_else(|| "a footer whose lengths do not fit into it".to_owned())
}

/// Walks the page headers of every column. `ratio` is the most a page may unpack to, per packed
/// byte, beyond [`PAGE_FLOOR`].
///
/// # Errors
/// As [`footer`].
pub(crate) fn pages<R: ChunkReader>(file: &R, metadata: &ParquetMetaData, ratio: u64) -> Result<(), String> {
    for group in metadata.row_groups() {
        for column in group.columns() {
            let start = column.dictionary_page_offset().unwrap_or(column.data_page_offset());
            let place = u64::try_from(start).ok().zip(u64::try_from(column.compressed_size()).ok());
            let end = place.and_then(|(start, size)| start.checked_add(size)).filter(|end| *end <= file.len());
            let (Some((start, _)), Some(end)) = (place, end) else {
                return Err(format!("column `{}` outside the file", column.column_path()));
            };
            chunk(file, start, end, ratio).map_err(|found| format!("column `{}`: {found}", column.column_path()))?;
        }
    }
    Ok(())
}

fn chunk<R: ChunkReader>(file: &R, start: u64, end: u64, ratio: u64) -> Result<(), String> {
    let mut at = start;
    while at < end {
        let (page, header) = page_header(file, at, end)?;
        let (Ok(packed), Ok(unpacked)) = (u64::try_from(page.packed), u64::try_from(page.unpacked)) else {
            return Err("a page of negative size".into());
        };
        let bound = packed.saturating_mul(ratio).max(PAGE_FLOOR);
        if unpacked > bound {
            return Err(format!("a page of {packed} bytes that claims to unpack to {unpacked}"));
        }
        if page.entries > page.unpacked {
            return Err(format!("a dictionary of {} entries in {unpacked} bytes", page.entries));
        }
        // a header has at least one byte, so this ends
        at = at.saturating_add(header).saturating_add(packed);
    }
    Ok(())
}

/// What a page header says; fields 2, 3 and 7.1 of `PageHeader`.
#[derive(Default)]
struct Page {
    unpacked: i64,
    packed: i64,
    entries: i64,
}

/// The header at `at`, and its length.
fn page_header<R: ChunkReader>(file: &R, at: u64, end: u64) -> Result<(Page, u64), String> {
    let mut window = WINDOW.min(end - at);
    loop {
        let bytes = get(file, at, window)?;
        let mut walk = Walk { rest: &bytes, depth: 0 };
        let mut page = Page::default();
        let whole = walk.structure(PAGE_HEADER, &mut |path, value| match path {
            [2] => page.unpacked = value,
            [3] => page.packed = value,
            [7, 1] => page.entries = value,
            _ => {}
        });
        if whole.is_some() {
            return Ok((page, (bytes.len() - walk.rest.len()) as u64));
        }
        if window == end - at {
            return Err("a page header whose lengths do not fit into the column".into());
        }
        window = window.saturating_mul(16).min(end - at);
    }
}

fn get<R: ChunkReader>(file: &R, start: u64, length: u64) -> Result<Bytes, String> {
    let length = usize::try_from(length).map_err(|error| error.to_string())?;
    file.get_bytes(start, length).map_err(|error: ParquetError| error.to_string())
}

/// Called with the path of field ids and the value of each whole number in structures.
type Visit<'v> = &'v mut dyn FnMut(&[i16], i64);

/// A walk over the compact protocol. Every method gives `None` where the bytes end too early or
/// make no sense. Takes time linear in the bytes: each element of a list costs one at least.
struct Walk<'b> {
    rest: &'b [u8],
    depth: usize,
}

impl Walk<'_> {
    fn structure(&mut self, layout: &[(i16, Kind)], visit: Visit<'_>) -> Option<()> {
        self.fields(layout, &mut Vec::new(), visit)
    }

    fn fields(&mut self, layout: &[(i16, Kind)], path: &mut Vec<i16>, visit: Visit<'_>) -> Option<()> {
        self.deeper()?;
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                break;
            }
            // The long form of ids is for gaps beyond 15, which the format does not have; the
            // decoder does not know it everywhere.
            let delta = i16::from(head >> 4);
            if delta == 0 {
                return None;
            }
            id = id.checked_add(delta)?;
            path.push(id);
            let kind = layout.iter().find(|(known, _)| *known == id).map(|(_, kind)| kind);
            match head & 15 {
                // a truth value in a structure is its type
                1 | 2 => kind.is_none_or(|kind| matches!(kind, Kind::Truth)).then_some(())?,
                written => self.value(written, kind, path, visit)?,
            }
            path.pop();
        }
        self.depth -= 1;
        Some(())
    }

    /// A value of the type that the file writes, which must be the one that `kind` wants.
    fn value(&mut self, written: u8, kind: Option<&Kind>, path: &mut Vec<i16>, visit: Visit<'_>) -> Option<()> {
        match (written, kind) {
            (3, None | Some(Kind::Byte)) => self.skip(1),
            (4..=6, None | Some(Kind::Whole)) => {
                let number = self.number()?;
                visit(path, number);
                Some(())
            }
            (7, None | Some(Kind::Double)) => self.skip(8),
            (8, None | Some(Kind::Text)) => {
                let length = self.varint()?;
                self.skip(length)
            }
            (9 | 10, None) => self.list(None, path, visit),
            (9, Some(Kind::List(element))) => self.list(Some(element), path, visit),
            (12, None) => self.fields(&[], path, visit),
            (12, Some(Kind::Fields(layout))) => self.fields(layout, path, visit),
            (13, None) => self.skip(16),
            // Fields of another type than theirs; maps (11) and lists of truth values (1, 2), which
            // these structures do not have and the decoder passes over without taking a byte.
            _ => None,
        }
    }

    fn list(&mut self, element: Option<&Kind>, path: &mut Vec<i16>, visit: Visit<'_>) -> Option<()> {
        let head = self.byte()?;
        let length = match head >> 4 {
            15 => self.varint()?,
            short => u64::from(short),
        };
        if length > self.rest.len() as u64 {
            return None;
        }
        self.deeper()?;
        // numbers in lists are no fields: a path of their own keeps them apart
        path.push(-1);
        for _ in 0..length {
            self.value(head & 15, element, path, visit)?;
        }
        path.pop();
        self.depth -= 1;
        Some(())
    }

    fn deeper(&mut self) -> Option<()> {
        self.depth += 1;
        (self.depth <= MAX_DEPTH).then_some(())
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn skip(&mut self, length: u64) -> Option<()> {
        self.rest = self.rest.get(usize::try_from(length).ok()?..)?;
        Some(())
    }

    /// ULEB128.
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 127) << shift;
            if byte & 128 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Zigzag.
    fn number(&mut self) -> Option<i64> {
        let raw = self.varint()?;
        Some((raw >> 1) as i64 ^ -((raw & 1) as i64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walks(layout: &[(i16, Kind)], bytes: &[u8]) -> bool {
        Walk { rest: bytes, depth: 0 }.structure(layout, &mut |_, _| ()).is_some()
    }

    #[test]
    fn lists_and_texts_must_fit() {
        let walks = |bytes: &[u8]| walks(&[], bytes);
        // field 1 a list of 2 small numbers, field 2 a text of 3 bytes
        assert!(walks(&[0x19, 0x25, 2, 4, 0x18, 3, b'a', b'b', b'c', 0]));
        assert!(!walks(&[0x19, 0x35, 2, 4]));
        // 2^31 elements, 2^31 bytes
        assert!(!walks(&[0x19, 0xF5, 0x80, 0x80, 0x80, 0x80, 8, 2, 0]));
        assert!(!walks(&[0x18, 0x80, 0x80, 0x80, 0x80, 8, b'a', 0]));
        assert!(!walks(&[]) && !walks(&[0x1B, 1, 0x55, 1, 1, 0]));
        // as deep as allowed, and one more
        let nested = |depth: usize| [vec![0x1C; depth], vec![0; depth + 1]].concat();
        assert!(walks(&nested(MAX_DEPTH - 1)) && !walks(&nested(MAX_DEPTH)));
    }

    #[test]
    fn fields_must_have_the_type_of_the_format() {
        // version 1, no schema elements, 0 rows
        assert!(walks(FOOTER, &[0x15, 2, 0x19, 0x0C, 0x16, 0, 0]));
        // a number where the schema belongs; a list of numbers for one of structures; a long id
        assert!(!walks(FOOTER, &[0x15, 2, 0x15, 2, 0x16, 0, 0]));
        assert!(!walks(FOOTER, &[0x15, 2, 0x19, 0x15, 2, 0x16, 0, 0]));
        assert!(!walks(FOOTER, &[0x15, 2, 0x09, 4, 0x0C, 0x16, 0, 0]));
        // a field that the format does not know yet
        assert!(walks(FOOTER, &[0x15, 2, 0xF5, 2, 0]));
        // an unknown list of truth values, of which the decoder would not take the bytes
        assert!(!walks(FOOTER, &[0x15, 2, 0xF9, 0x21, 1, 1, 0]));
    }

    #[test]
    fn pages_must_not_claim_more_than_they_can_hold() {
        let check = |bytes: &[u8]| chunk(&Bytes::copy_from_slice(bytes), 0, bytes.len() as u64, 200);
        // type 0, unpacked 2, packed 1, one byte of data
        assert_eq!(check(&[0x15, 0, 0x15, 4, 0x15, 2, 0, 9]), Ok(()));
        // unpacked 2^30
        let claim = [0x15, 0, 0x15, 0x80, 0x80, 0x80, 0x80, 8, 0x15, 2, 0, 9];
        assert!(check(&claim).is_err_and(|e| e.contains("1073741824")));
        // a dictionary (field 7, field 1) of 2^30 entries in 2 bytes
        let entries = [0x15, 4, 0x15, 4, 0x15, 2, 0x4C, 0x15, 0x80, 0x80, 0x80, 0x80, 8, 0, 0, 9];
        assert!(check(&entries).is_err_and(|e| e.contains("dictionary of 1073741824 entries")));
        assert!(check(&[0x15, 0, 0x15, 1, 0x15, 1, 0]).is_err_and(|e| e.contains("negative")));
        assert!(check(&[0x15]).is_err());
    }
}
