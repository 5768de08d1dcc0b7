//! Replies as bytes: a tag and what it says. So sessions keep them in snapshots, and so a command that holds several answers.
//!
//! | tag | content | reply |
//! |---|---|---|
//! | 1 | empty | `Ok` |
//! | 2 | empty | `Nil` |
//! | 3 | number, 8 bytes, little-endian | `Int` |
//! | 4 | value | `Bytes` |
//! | 5 | text | `Status` |
//! | 6 | as in [`Reply::Array`] | `Array` |
//! | 7 | code of the error | `Error` |
//! | 8 | [`list`] of replies, none of which is of this kind | `Replies` |

use crate::command::{CommandError, Reply, list};

const OK: u8 = 1;
const NIL: u8 = 2;
const INT: u8 = 3;
const BYTES: u8 = 4;
const STATUS: u8 = 5;
const ARRAY: u8 = 6;
const ERROR: u8 = 7;
const REPLIES: u8 = 8;

/// Every text that a [`Reply::Status`] can have.
const STATUSES: [&str; 2] = ["string", "none"];

/// Bytes that an error takes as an item of [`Reply::Replies`], its length included.
pub const ERROR_ITEM_SIZE: usize = 4 + 2;

/// The tag and the content of `reply`; `word` holds what is not in it as bytes.
fn parts<'a>(reply: &Reply<'a>, word: &'a mut [u8; 8]) -> (u8, &'a [u8]) {
    match *reply {
        Reply::Ok => (OK, &[]),
        Reply::Nil => (NIL, &[]),
        Reply::Int(number) => {
            *word = number.to_le_bytes();
            (INT, word)
        }
        Reply::Bytes(bytes) => (BYTES, bytes),
        Reply::Status(text) => (STATUS, text.as_bytes()),
        Reply::Array(items) => (ARRAY, items),
        Reply::Error(error) => {
            word[0] = error as u8;
            (ERROR, &word[..1])
        }
        Reply::Replies(items) => (REPLIES, items),
    }
}

/// How many bytes [`push`] appends.
pub fn size(reply: &Reply<'_>) -> usize {
    1 + parts(reply, &mut [0; 8]).1.len()
}

/// Appends tag and content.
pub fn push(reply: &Reply<'_>, out: &mut Vec<u8>) {
    let mut word = [0; 8];
    let (tag, content) = parts(reply, &mut word);
    out.push(tag);
    out.extend_from_slice(content);
}

/// Appends an item of [`Reply::Replies`].
///
/// # Panics
/// If it is longer than `u32::MAX`.
pub fn push_item(reply: &Reply<'_>, out: &mut Vec<u8>) {
    let size = u32::try_from(size(reply)).expect("a reply is below 4 GiB");
    out.extend_from_slice(&size.to_le_bytes());
    push(reply, out);
}

/// The reply in these bytes; `None` if they mean nothing.
pub fn decode(bytes: &[u8]) -> Option<Reply<'_>> {
    match bytes.split_first()? {
        (&REPLIES, items) => {
            let is_sound = items.is_empty()
                || list::is_valid(items, 1) && list::items(items).all(|item| decode_one(item).is_some());
            is_sound.then_some(Reply::Replies(items))
        }
        _ => decode_one(bytes),
    }
}

/// The same for a reply that holds no others.
fn decode_one(bytes: &[u8]) -> Option<Reply<'_>> {
    let (tag, content) = bytes.split_first()?;
    Some(match (*tag, content) {
        (OK, []) => Reply::Ok,
        (NIL, []) => Reply::Nil,
        (INT, _) => Reply::Int(i64::from_le_bytes(content.try_into().ok()?)),
        (BYTES, _) => Reply::Bytes(content),
        (STATUS, _) => Reply::Status(STATUSES.into_iter().find(|text| text.as_bytes() == content)?),
        (ARRAY, _) => Reply::Array(content),
        (ERROR, [code]) => Reply::Error(CommandError::from_code(*code)?),
        _ => return None,
    })
}

/// The replies in [`Reply::Replies`], in the order of the commands; ends early at what is none.
pub fn items(items: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    list::items(items).map_while(decode_one)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Reply<'static>; 8] = [
        Reply::Ok,
        Reply::Nil,
        Reply::Int(-7),
        Reply::Bytes(b"value"),
        Reply::Status("string"),
        Reply::Status("none"),
        Reply::Array(b"\x01\0\0\0\0"),
        Reply::Error(CommandError::TooLarge),
    ];

    #[test]
    fn replies_come_back_as_they_were() {
        let mut replies = Vec::new();
        for reply in &ALL {
            let mut out = Vec::new();
            push(reply, &mut out);
            assert_eq!((decode(&out), size(reply)), (Some(*reply), out.len()));
            push_item(reply, &mut replies);
        }
        assert_eq!(items(&replies).collect::<Vec<_>>(), ALL);
        for content in [&replies[..], &[]] {
            let mut out = Vec::new();
            push(&Reply::Replies(content), &mut out);
            assert_eq!(decode(&out), Some(Reply::Replies(content)));
        }
        let mut out = Vec::new();
        push_item(&Reply::Error(CommandError::TooLarge), &mut out);
        assert_eq!(out.len(), ERROR_ITEM_SIZE);
    }

    #[test]
    fn bytes_that_mean_nothing_are_no_reply() {
        let mut nested = vec![REPLIES];
        list::push(&mut nested, &[REPLIES]);
        let mut cut = vec![REPLIES];
        push_item(&Reply::Int(1), &mut cut);
        cut.pop();
        let wrong: [&[u8]; 9] =
            [b"", b"\0", b"\x09", b"\x01x", b"\x0312", b"\x05other", b"\x07", b"\x07\xff", &nested];
        for bytes in wrong {
            assert_eq!(decode(bytes), None, "{}", bytes.escape_ascii());
        }
        assert_eq!(decode(&cut), None);
    }
}
