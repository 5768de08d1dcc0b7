//! Redis' glob patterns, as in `CONFIG GET max*`.

/// Whether `text` matches `pattern` without regard to ASCII case: `*`, `?`, `[a-z]`, `[^a-z]`, `\` before a literal.
///
/// Takes at most pattern times text steps, whatever the pattern: only the last `*` is ever reconsidered.
pub fn matches_glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut done) = (0, 0);
    let mut star = None;
    while done < text.len() {
        if pattern.get(at) == Some(&b'*') {
            star = Some((at, done));
            at += 1;
        } else if let Some(size) = matches_one(&pattern[at..], text[done]) {
            at += size;
            done += 1;
        } else if let Some((star_at, taken)) = star {
            at = star_at + 1;
            done = taken + 1;
            star = Some((star_at, done));
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// How much of `pattern` stands for this one byte, if it matches.
fn matches_one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', ref class @ ..] => matches_class(class, byte).map(|size| size + 1),
        [b'\\', literal, ..] => literal.eq_ignore_ascii_case(&byte).then_some(2),
        [literal, ..] => literal.eq_ignore_ascii_case(&byte).then_some(1),
    }
}

/// `class` is what follows `[`; one that is not closed ends with the pattern.
fn matches_class(class: &[u8], byte: u8) -> Option<usize> {
    let byte = byte.to_ascii_lowercase();
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        let rest = &class[at..];
        let (low, high, size) = match *rest {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => (literal, literal, 2),
            [low, b'-', high, ..] => (low, high, 3),
            [literal, ..] => (literal, literal, 1),
        };
        let (low, high) = (low.to_ascii_lowercase(), high.to_ascii_lowercase());
        found |= (low.min(high)..=low.max(high)).contains(&byte);
        at += size;
    }
    (found != negated).then_some(at)
}
