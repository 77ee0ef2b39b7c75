//! TensorBoard event files: TFRecord frames (length, masked CRC-32C of the length, data, masked
//! CRC-32C of the data) around `Event` messages, encoded by hand as `event.proto` and
//! `summary.proto` of TensorFlow define them: wall_time = 1 (double), step = 2 (int64),
//! file_version = 3 (string), summary = 5 { value = 1 { tag = 1, simple_value = 2 (float) } }.

use std::io::{self, Write};

/// CRC-32C rotated and offset, so that a CRC of data that holds CRCs stays useful (TFRecord).
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Field `number` with wire type 2: length and bytes.
fn bytes_field(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    varint(u64::from(number << 3 | 2), out);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn wall_time_field(seconds: f64, out: &mut Vec<u8>) {
    out.push(1 << 3 | 1); // wire type 1: 64 bits
    out.extend_from_slice(&seconds.to_le_bytes());
}

/// The first record of a file.
pub fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    wall_time_field(wall_time, &mut event);
    bytes_field(3, b"brain.Event:2", &mut event);
    event
}

/// One event with scalar values.
pub fn scalar_event(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut entry = Vec::new();
        bytes_field(1, tag.as_bytes(), &mut entry);
        entry.push(2 << 3 | 5); // wire type 5: 32 bits
        entry.extend_from_slice(&(*value as f32).to_le_bytes());
        bytes_field(1, &entry, &mut summary);
    }
    let mut event = Vec::new();
    wall_time_field(wall_time, &mut event);
    event.push(2 << 3); // wire type 0: varint
    varint(step, &mut event);
    bytes_field(5, &summary, &mut event);
    event
}

/// Writes one TFRecord frame.
///
/// # Errors
/// What the writer says.
pub fn write_record(out: &mut dyn Write, data: &[u8]) -> io::Result<()> {
    let length = (data.len() as u64).to_le_bytes();
    let mut frame = Vec::with_capacity(data.len() + 16);
    frame.extend_from_slice(&length);
    frame.extend_from_slice(&masked_crc(&length).to_le_bytes());
    frame.extend_from_slice(data);
    frame.extend_from_slice(&masked_crc(data).to_le_bytes());
    out.write_all(&frame) // one write, so that a killed process leaves at most one torn frame
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An independent reader: bitwise CRC, frames, protobuf fields.
    fn crc_bitwise(bytes: &[u8]) -> u32 {
        let mut crc = !0u32;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            }
        }
        !crc
    }

    fn read_varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = bytes[0];
            *bytes = &bytes[1..];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }

    fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
        let mut out = Vec::new();
        while !bytes.is_empty() {
            let key = read_varint(&mut bytes);
            let length = match key & 7 {
                0 => {
                    let value = read_varint(&mut bytes);
                    out.push((key >> 3, value.to_le_bytes().to_vec()));
                    continue;
                }
                1 => 8,
                2 => read_varint(&mut bytes) as usize,
                5 => 4,
                other => panic!("wire type {other}"),
            };
            out.push((key >> 3, bytes[..length].to_vec()));
            bytes = &bytes[length..];
        }
        out
    }

    /// (step, tag, value) of every scalar of a file.
    pub(crate) fn read_scalars(mut file: &[u8]) -> Vec<(u64, String, f32)> {
        let unmask = |crc: u32| crc.wrapping_sub(0xa282_ead8).rotate_left(15);
        let mut out = Vec::new();
        while !file.is_empty() {
            let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
            assert_eq!(unmask(u32::from_le_bytes(file[8..12].try_into().unwrap())), crc_bitwise(&file[..8]));
            let data = &file[12..12 + length];
            let crc = u32::from_le_bytes(file[12 + length..16 + length].try_into().unwrap());
            assert_eq!(unmask(crc), crc_bitwise(data));
            file = &file[16 + length..];
            let event = fields(data);
            let step = event.iter().find(|f| f.0 == 2).map_or(0, |f| u64::from_le_bytes(f.1[..8].try_into().unwrap()));
            for (_, summary) in event.iter().filter(|f| f.0 == 5) {
                for (_, value) in fields(summary) {
                    let value = fields(&value);
                    let tag = String::from_utf8(value[0].1.clone()).unwrap();
                    out.push((step, tag, f32::from_le_bytes(value[1].1[..].try_into().unwrap())));
                }
            }
        }
        out
    }

    #[test]
    fn known_crc() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc_bitwise(b"123456789"), 0xe306_9283);
        // a 32-bit word may be rotated either way; the mask of TFRecord goes to the right by 15
        let crc = crc_bitwise(b"123456789");
        let rotated = u32::try_from((u64::from(crc) << 17 | u64::from(crc) >> 15) & 0xffff_ffff).unwrap();
        assert_eq!(masked_crc(b"123456789"), rotated.wrapping_add(0xa282_ead8));
    }

    #[test]
    fn an_independent_reader_finds_what_was_written() {
        let mut file = Vec::new();
        write_record(&mut file, &version_event(1.5)).unwrap();
        write_record(&mut file, &scalar_event(2.0, 1, &[("train/loss", 3.25), ("train/learning_rate", 1e-4)])).unwrap();
        write_record(&mut file, &scalar_event(3.0, 300, &[("eval/loss", -0.5)])).unwrap();
        assert_eq!(
            read_scalars(&file),
            [(1, "train/loss".into(), 3.25), (1, "train/learning_rate".into(), 1e-4), (300, "eval/loss".into(), -0.5)]
        );
        assert!(file.windows(13).any(|w| w == b"brain.Event:2"));
    }
}
