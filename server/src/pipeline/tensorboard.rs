//! Curves as TensorBoard event files, for those who look at all their runs there: `tensorboard --logdir RUN`.
//!
//! One file a start of a stage, in `tensorboard/` beside its other files; TensorBoard joins them. A file is a row of
//! records (length, its checksum, bytes, their checksum), each an `Event` of TensorFlow's `event.proto`, of which
//! scalars need five fields.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Field numbers of `Event`, `Summary` and `Summary.Value`, with their wire types, as one byte.
const WALL_TIME: u8 = 1 << 3 | FIXED_64;
const STEP: u8 = 2 << 3 | VARINT;
const FILE_VERSION: u8 = 3 << 3 | BYTES;
const SUMMARY: u8 = 5 << 3 | BYTES;
const VALUE: u8 = 1 << 3 | BYTES;
const TAG: u8 = 1 << 3 | BYTES;
const SIMPLE_VALUE: u8 = 2 << 3 | FIXED_32;
const VARINT: u8 = 0;
const FIXED_64: u8 = 1;
const BYTES: u8 = 2;
const FIXED_32: u8 = 5;

/// Writes the scalars of one start of a stage.
pub struct EventFile {
    file: File,
}

impl EventFile {
    /// A new file in `dir/tensorboard` (made where missing); `session` counts the starts.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn create(dir: &Path, session: usize) -> io::Result<Self> {
        let dir = dir.join("tensorboard");
        std::fs::create_dir_all(&dir)?;
        let now = seconds();
        let path = dir.join(format!("events.out.tfevents.{:010}.beckon.{session}", now as u64));
        let mut events = Self { file: OpenOptions::new().create(true).append(true).open(path)? };
        let mut event = wall_time(now);
        event.extend(bytes(FILE_VERSION, b"brain.Event:2"));
        events.record(&event)?;
        Ok(events)
    }

    /// One value of one curve.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn scalar(&mut self, tag: &str, step: usize, value: f64) -> io::Result<()> {
        let mut entry = bytes(TAG, tag.as_bytes());
        entry.push(SIMPLE_VALUE);
        entry.extend((value as f32).to_le_bytes());
        let mut event = wall_time(seconds());
        event.push(STEP);
        event.extend(varint(step as u64));
        event.extend(bytes(SUMMARY, &bytes(VALUE, &entry)));
        self.record(&event)
    }

    fn record(&mut self, event: &[u8]) -> io::Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let record = [&length[..], &masked_checksum(&length), event, &masked_checksum(event)].concat();
        self.file.write_all(&record)
    }
}

fn seconds() -> f64 {
    // a clock before 1970 is no reason to fail
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn wall_time(seconds: f64) -> Vec<u8> {
    [&[WALL_TIME][..], &seconds.to_le_bytes()].concat()
}

/// A field of bytes: key, length, content.
fn bytes(key: u8, content: &[u8]) -> Vec<u8> {
    [&[key][..], &varint(content.len() as u64), content].concat()
}

/// Seven bits a byte, the lowest first; the top bit says that more follow.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// CRC-32C, turned and shifted as TensorFlow's records have it.
fn masked_checksum(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of a file, their checksums checked.
    fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
        let mut records = Vec::new();
        while !file.is_empty() {
            let (head, rest) = file.split_at(12);
            assert_eq!(head[8..], masked_checksum(&head[..8]));
            let n = u64::from_le_bytes(head[..8].try_into().expect("eight")) as usize;
            let (event, rest) = rest.split_at(n);
            assert_eq!(rest[..4], masked_checksum(event));
            records.push(event.to_vec());
            file = &rest[4..];
        }
        records
    }

    #[test]
    fn a_file_holds_the_version_and_every_scalar() {
        let dir = tempfile::tempdir().expect("folder");
        let mut events = EventFile::create(dir.path(), 0).expect("file");
        events.scalar("sft/loss", 300, 2.5).expect("written");
        let path = std::fs::read_dir(dir.path().join("tensorboard")).expect("folder").next().expect("a file");
        let records = records(&std::fs::read(path.expect("entry").path()).expect("file"));
        assert_eq!(records[0][9..], *b"\x1a\x0dbrain.Event:2");
        // step 300, then summary { value { tag "sft/loss", simple_value 2.5 } }
        let mut want = b"\x10\xac\x02\x2a\x11\x0a\x0f\x0a\x08sft/loss\x15".to_vec();
        want.extend(2.5f32.to_le_bytes());
        assert_eq!(records[1][9..], want);
        assert_eq!(records.len(), 2);
    }

    #[test]
    fn checksums_are_those_of_tensorflow() {
        // the head of every record of 24 bytes that TensorFlow writes
        assert_eq!(masked_checksum(&24u64.to_le_bytes()), [0xa3, 0x7f, 0x4b, 0x22]);
    }
}
