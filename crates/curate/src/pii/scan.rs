//! Finds personal data in one text, in time linear in its length. Digits, `@` and `:` lead to
//! candidates, which are read left and right from there as far as an identifier can reach; an
//! automaton over words of context (姓名, 先生, 微信, Passport, Mr., …) leads to those that only
//! context tells. Structure, neighbours and check digits decide, in `checks`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::checks;
use super::context::Context;
use super::kind::Kind;

/// Personal data in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// What it is.
    pub kind: Kind,
    /// Bytes of the text.
    pub at: Range<usize>,
}

/// What is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Private, loopback and documentation addresses too.
    pub private_ips: bool,
}

/// Everything in a text, in order, nothing overlapping: what has a check digit wins over what has
/// context, that over what has only a shape, then the longer, then the earlier.
pub fn scan(text: &str, context: &Context, wanted: Wanted) -> Vec<Found> {
    let mut found: Vec<(u8, Found)> = Vec::new();
    numbers(text, &mut found);
    emails(text, &mut found);
    colons(text, wanted, &mut found);
    dotted(text, wanted, &mut found);
    context.find(text, &mut found);
    if found.len() > 1 {
        found.sort_by_key(|(rank, f)| (*rank, std::cmp::Reverse(f.at.len()), f.at.start, f.kind));
    }
    let mut kept: Vec<Found> = Vec::with_capacity(found.len());
    for (_, f) in found {
        if kept.iter().all(|k| k.at.end <= f.at.start || f.at.end <= k.at.start) {
            kept.push(f);
        }
    }
    kept.sort_by_key(|f| f.at.start);
    kept
}

/// Ranks of evidence.
const CHECKED: u8 = 0;
pub(super) const TOLD: u8 = 1;
const SHAPED: u8 = 2;

fn word(byte: Option<&u8>) -> bool {
    byte.is_some_and(u8::is_ascii_alphanumeric)
}

/// Digits with at most one space or hyphen between two of them, as often as it comes.
fn numbers(text: &str, found: &mut Vec<(u8, Found)>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        // The word around the digit: letters before it belong to plates, codes and cards.
        let mut start = at;
        while start > 0 && bytes[start - 1].is_ascii_alphanumeric() {
            start -= 1;
        }
        let mut end = at;
        while word(bytes.get(end)) {
            end += 1;
        }
        alphanumeric(text, start..end, found);
        // Groups: 4111 1111 1111 1111, 010-62345678, +86 138 0013 8000.
        let mut last = at;
        while bytes.get(last).is_some_and(u8::is_ascii_digit) {
            last += 1;
        }
        let mut group = last;
        let mut groups = 1;
        loop {
            let next = group + usize::from(bytes.get(group).is_some_and(|b| matches!(b, b' ' | b'-')));
            let mut stop = next;
            while bytes.get(stop).is_some_and(u8::is_ascii_digit) {
                stop += 1;
            }
            if next == group || stop == next || groups == 8 {
                break;
            }
            group = stop;
            groups += 1;
        }
        if group > last && start == at {
            grouped(text, at..group, found);
        } else if group > last {
            iban_groups(text, at, found);
        }
        at = end.max(at + 1);
    }
}

/// A word with a digit in it.
fn alphanumeric(text: &str, at: Range<usize>, found: &mut Vec<(u8, Found)>) {
    let bytes = text.as_bytes();
    let word = &text[at.clone()];
    let before = text[..at.start].chars().next_back();
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    let mut push = |rank, kind, at: Range<usize>| found.push((rank, Found { kind, at }));
    // A decimal, part of a longer dotted or hyphened number, an amount.
    let decimal = before == Some('.')
        || (bytes.get(at.end) == Some(&b'.') && bytes.get(at.end + 1).is_some_and(u8::is_ascii_digit));
    match word.len() {
        18 if checks::resident_id(word) => push(CHECKED, Kind::ResidentId, at.clone()),
        18 if checks::credit_code(word) => push(CHECKED, Kind::CreditCode, at.clone()),
        15 if digits && !decimal && checks::resident_id_15(word) && !checks::bank_card(word) => {
            push(SHAPED, Kind::ResidentId, at.clone())
        }
        15..=34 if word.as_bytes()[0].is_ascii_uppercase() && checks::iban(word) => {
            push(CHECKED, Kind::Iban, at.clone())
        }
        10 if word.as_bytes()[0].is_ascii_uppercase()
            && word[1..].bytes().all(|b| b.is_ascii_digit())
            && checks::taiwan_id(word.as_bytes()[0], &word[1..]) =>
        {
            push(CHECKED, Kind::Permit, at.clone());
        }
        _ => {}
    }
    if digits && !decimal {
        if (13..=19).contains(&word.len()) && checks::bank_card(word) {
            push(CHECKED, Kind::BankCard, at.clone());
        }
        // 86 before a mobile number, glued to it.
        let (mobile, skip) = match word.len() {
            11 => (word, 0),
            13 if word.starts_with("86") => (&word[2..], 2),
            14 if word.starts_with("086") => (&word[3..], 3),
            15 if word.starts_with("0086") => (&word[4..], 4),
            _ => ("", 0),
        };
        if is_mobile(mobile) {
            let plus = usize::from(skip == 2 && before == Some('+'));
            push(SHAPED, Kind::Mobile, at.start - plus..at.end);
        } else if (11..=12).contains(&word.len()) && is_landline(word) {
            push(SHAPED, Kind::Landline, at.clone());
        }
    }
    hongkong(text, &at, found);
    plate(text, &at, found);
}

fn is_mobile(eleven: &str) -> bool {
    let b = eleven.as_bytes();
    b.len() == 11 && b[0] == b'1' && (b'3'..=b'9').contains(&b[1]) && b.iter().all(u8::is_ascii_digit)
        // 13800000000 and its kin stand in forms.
        && !b[3..].iter().all(|d| *d == b[3])
}

/// Area code and number: 010 and 02x with eight digits, 03x to 09x with seven or eight.
fn is_landline(digits: &str) -> bool {
    let b = digits.as_bytes();
    let (area, number) = match b {
        [b'0', b'1', b'0', ..] | [b'0', b'2', _, ..] => (3, 8..=8),
        [b'0', b'3'..=b'9', _, _, ..] => (4, 7..=8),
        _ => return false,
    };
    number.contains(&(b.len() - area)) && (b'2'..=b'8').contains(&b[area])
}

/// Numbers with separators.
fn grouped(text: &str, at: Range<usize>, found: &mut Vec<(u8, Found)>) {
    let bytes = text.as_bytes();
    let joined = &text[at.clone()];
    let groups: Vec<&str> = joined.split([' ', '-']).collect();
    let before = text[..at.start].chars().next_back();
    // The check character of a resident id, as a group's end.
    let x = bytes.get(at.end).is_some_and(|b| matches!(b, b'X' | b'x')) && !word(bytes.get(at.end + 1));
    let neighbours = before == Some('.') || (!x && word(bytes.get(at.end)));
    if neighbours {
        return;
    }
    let mut push = |rank, kind, at: Range<usize>| found.push((rank, Found { kind, at }));
    // Runs of groups, since a number may stand beside another: `2023 4111 1111 1111 1111`.
    let mut start = at.start;
    for first in 0..groups.len() {
        let mut bare = String::new();
        let mut end = start;
        for (last, group) in groups.iter().enumerate().skip(first) {
            bare.push_str(group);
            end += group.len() + usize::from(last > first);
            if bare.len() > 19 {
                break;
            }
            if last == first {
                continue;
            }
            let lens: Vec<usize> = groups[first..=last].iter().map(|g| g.len()).collect();
            let whole = start..end;
            let whole_x = start..end + 1;
            let even = lens.iter().take(lens.len() - 1).all(|len| *len == 4);
            let amex = lens == [4, 6, 5];
            let shape = lens.as_slice();
            if (even || amex) && (13..=19).contains(&bare.len()) && checks::bank_card(&bare) {
                push(CHECKED, Kind::BankCard, whole);
            } else if matches!(shape, [6, 8, 4]) && checks::resident_id(&bare) {
                push(CHECKED, Kind::ResidentId, whole);
            } else if matches!(shape, [6, 8, 3])
                && last + 1 == groups.len()
                && x
                && checks::resident_id(&format!("{bare}X"))
            {
                push(CHECKED, Kind::ResidentId, whole_x);
            } else if (matches!(shape, [3, 4, 4] | [3, 8] | [7, 4]) && is_mobile(&bare))
                || (matches!(shape, [2, 3, 4, 4] | [2, 11] | [4, 11] | [4, 3, 4, 4])
                    && is_mobile(bare.trim_start_matches('0').strip_prefix("86").unwrap_or("")))
            {
                let plus = usize::from(first == 0 && before == Some('+'));
                push(SHAPED, Kind::Mobile, start - plus..end);
            } else if matches!(shape, [3 | 4, 7 | 8] | [3 | 4, 3 | 4, 4]) && is_landline(&bare) {
                push(SHAPED, Kind::Landline, whole);
            } else if shape == [3, 2, 4]
                && joined.as_bytes()[3] == bytes[end - 5]
                && checks::ssn(&bare)
                && groups.len() == 3
            {
                push(SHAPED, Kind::Ssn, whole);
            }
        }
        start += groups[first].len() + 1;
    }
}

/// `DE89 3704 0044 0532 0130 00`: from the word before the first digits on, groups of four.
fn iban_groups(text: &str, digits: usize, found: &mut Vec<(u8, Found)>) {
    let bytes = text.as_bytes();
    let mut start = digits;
    while start > 0 && bytes[start - 1].is_ascii_uppercase() && digits - start < 2 {
        start -= 1;
    }
    if digits - start != 2 {
        return;
    }
    let rest = &text[start..crate::normalize::floor(text, start + 44)];
    let mut bare = String::new();
    let mut end = start;
    for group in rest.split(' ') {
        if group.len() > 4 || !group.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) {
            break;
        }
        end += group.len() + usize::from(!bare.is_empty());
        bare.push_str(group);
        if group.len() < 4 {
            break;
        }
    }
    if checks::iban(&bare) {
        found.push((CHECKED, Found { kind: Kind::Iban, at: start..end }));
    }
}

/// `A123456(7)`.
fn hongkong(text: &str, at: &Range<usize>, found: &mut Vec<(u8, Found)>) {
    let word = &text[at.clone()];
    let letters = word.bytes().take_while(u8::is_ascii_uppercase).count();
    let digits = word.len() - letters;
    let rest = &text[at.end..];
    if !(1..=2).contains(&letters) || digits != 6 || !word[letters..].bytes().all(|b| b.is_ascii_digit()) {
        return;
    }
    let open = ['(', '（'].into_iter().find(|c| rest.starts_with(*c));
    let Some(open) = open else { return };
    let mut inside = rest[open.len_utf8()..].chars();
    let (check, close) = (inside.next().unwrap_or(' '), inside.next().unwrap_or(' '));
    if matches!(close, ')' | '）') && checks::hongkong_id(&word[..letters], &word[letters..], check) {
        let end = at.end + open.len_utf8() + check.len_utf8() + close.len_utf8();
        found.push((CHECKED, Found { kind: Kind::Permit, at: at.start..end }));
    }
}

/// `京A12345`, `粤BD12345`, `沪A·D12345`.
fn plate(text: &str, at: &Range<usize>, found: &mut Vec<(u8, Found)>) {
    const PROVINCES: &str = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼";
    let mut head = &text[..at.start];
    let mut body = &text[at.clone()];
    // The body may be parted from the letter by a dot.
    let mut letter = None;
    let bare = head.trim_end_matches(['·', '•', ' ', '-']);
    if bare.len() < head.len() && bare.ends_with(|c: char| c.is_ascii_uppercase()) {
        letter = bare.bytes().next_back();
        head = &bare[..bare.len() - 1];
    } else if body.as_bytes()[0].is_ascii_uppercase() {
        letter = Some(body.as_bytes()[0]);
        body = &body[1..];
    }
    let Some(letter) = letter.filter(|l| !matches!(l, b'I')) else { return };
    let Some(province) = head.chars().next_back().filter(|c| PROVINCES.contains(*c)) else { return };
    let tail = text[at.end..].chars().next();
    // 5 characters and perhaps 学, 警, 挂, 港, 澳 for the last; 6 for new energy.
    let allowed = body.bytes().all(|b| b.is_ascii_digit() || (b.is_ascii_uppercase() && !matches!(b, b'I' | b'O')));
    let special = body.len() == 4 && tail.is_some_and(|c| matches!(c, '学' | '警' | '挂' | '港' | '澳' | '试' | '超'));
    let digits = body.bytes().filter(u8::is_ascii_digit).count();
    if letter.is_ascii_uppercase() && allowed && (matches!(body.len(), 5 | 6) || special) && digits >= 2 {
        let end = at.end + if special { tail.map_or(0, char::len_utf8) } else { 0 };
        let start = head.len() - province.len_utf8();
        found.push((CHECKED, Found { kind: Kind::Plate, at: start..end }));
    }
}

/// A local part to the left of `@`, a domain with a letter in its last label, or an address.
fn emails(text: &str, found: &mut Vec<(u8, Found)>) {
    let bytes = text.as_bytes();
    for at in memchr::memchr_iter(b'@', bytes) {
        let local = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'%' | b'+' | b'-');
        let mut start = at;
        while start > 0 && local(&bytes[start - 1]) && at - start < 64 {
            start -= 1;
        }
        // Dots may not begin, end or double: what stands behind the last such dot counts.
        let part = &text[start..at];
        let part = part
            .rsplit("..")
            .next()
            .unwrap_or_default()
            .trim_start_matches(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        if part.is_empty() || part.ends_with('.') || !part.bytes().any(|b| b.is_ascii_alphanumeric() || b == b'_') {
            continue;
        }
        let start = at - part.len();
        let mut end = at + 1;
        while bytes.get(end).is_some_and(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')) && end - at < 254 {
            end += 1;
        }
        let mut domain = text[at + 1..end].split("..").next().unwrap_or_default();
        domain = domain.trim_end_matches(['.', '-']);
        let labels: Vec<&str> = domain.split('.').collect();
        let sound = labels.len() > 1
            && labels.iter().all(|label| !label.is_empty() && !label.starts_with('-') && !label.ends_with('-'));
        let last = labels.last().copied().unwrap_or_default();
        let named = last.len() >= 2 && last.bytes().all(|b| b.is_ascii_alphabetic()) || last.starts_with("xn--");
        // `@` again right behind: `a@b@c.com` is no address from here.
        if sound && (named || domain.parse::<Ipv4Addr>().is_ok()) && bytes.get(at + 1 + domain.len()) != Some(&b'@') {
            found.push((CHECKED, Found { kind: Kind::Email, at: start..at + 1 + domain.len() }));
        }
    }
}

/// IPv6 and MAC addresses.
fn colons(text: &str, wanted: Wanted, found: &mut Vec<(u8, Found)>) {
    let bytes = text.as_bytes();
    let part = |b: &u8| b.is_ascii_hexdigit() || *b == b':';
    let mut done = 0;
    for at in memchr::memchr_iter(b':', bytes) {
        if at < done || !(bytes.get(at + 1).is_some_and(part)) {
            continue;
        }
        let mut start = at;
        while start > done && part(&bytes[start - 1]) {
            start -= 1;
        }
        let mut end = at;
        while bytes.get(end).is_some_and(|b| part(b) || *b == b'.') {
            end += 1;
        }
        while end > start && bytes[end - 1] == b'.' {
            end -= 1;
        }
        done = end;
        let outside = |b: Option<&u8>| !b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
        if (start > 0 && !outside(bytes.get(start - 1))) || !outside(bytes.get(end)) {
            continue;
        }
        let candidate = &text[start..end];
        if is_mac(candidate, ':') {
            found.push((CHECKED, Found { kind: Kind::Mac, at: start..end }));
            continue;
        }
        let groups = candidate.split(':').filter(|g| !g.is_empty()).count();
        let digit = candidate.bytes().any(|b| b.is_ascii_digit());
        if let Ok(address) = candidate.parse::<Ipv6Addr>()
            && (groups >= 3 || (groups == 2 && candidate.len() >= 7) || candidate == "::1")
            && digit
            && (wanted.private_ips || is_public(IpAddr::V6(address)))
        {
            found.push((CHECKED, Found { kind: Kind::Ip, at: start..end }));
        }
    }
    for at in memchr::memmem::find_iter(bytes, b"-") {
        // 00-1A-2B-3C-4D-5E: only at the first hyphen of six pairs.
        if at >= 2 && at + 15 <= bytes.len() && text.is_char_boundary(at + 15) && text.is_char_boundary(at - 2) {
            let candidate = &text[at - 2..at + 15];
            if is_mac(candidate, '-') && !word(bytes.get(at + 15)) && (at == 2 || !word(bytes.get(at - 3))) {
                found.push((CHECKED, Found { kind: Kind::Mac, at: at - 2..at + 15 }));
            }
        }
    }
}

fn is_mac(text: &str, separator: char) -> bool {
    text.len() == 17
        && text.split(separator).count() == 6
        && text.split(separator).all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
        && !matches!(text, "00:00:00:00:00:00" | "FF:FF:FF:FF:FF:FF" | "ff:ff:ff:ff:ff:ff")
}

/// IPv4 addresses: four numbers, no leading zeros, no further number beside them.
fn dotted(text: &str, wanted: Wanted, found: &mut Vec<(u8, Found)>) {
    let bytes = text.as_bytes();
    let mut done = 0;
    for at in memchr::memchr_iter(b'.', bytes) {
        if at < done || at == 0 || !bytes[at - 1].is_ascii_digit() || !bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
        {
            continue;
        }
        let part = |b: &u8| b.is_ascii_digit() || *b == b'.';
        let mut start = at;
        while start > done && part(&bytes[start - 1]) {
            start -= 1;
        }
        let mut end = at;
        while bytes.get(end).is_some_and(part) {
            end += 1;
        }
        done = end;
        // A full stop before or after belongs to the sentence.
        let candidate = text[start..end].trim_matches('.');
        let start = start + text[start..end].find(candidate).unwrap_or(0);
        let glued = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-');
        // `v1.2.3.4` and `1.2.3.4-rc` are versions.
        if (start > 0 && glued(bytes.get(start - 1)))
            || (glued(bytes.get(start + candidate.len())) && end == start + candidate.len())
        {
            continue;
        }
        if let Ok(address) = candidate.parse::<Ipv4Addr>()
            && (wanted.private_ips || is_public(IpAddr::V4(address)))
        {
            found.push((CHECKED, Found { kind: Kind::Ip, at: start..start + candidate.len() }));
        }
    }
}

/// Whether an address can be a machine on the internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (18..20).contains(&b))
                || v4.octets()[..3] == [192, 0, 0])
        }
        IpAddr::V6(v6) => {
            let head = v6.segments();
            // Global unicast is 2000::/3; 2001:db8::/32 and 3fff::/20 are for documentation.
            head[0] & 0xE000 == 0x2000 && !(head[0] == 0x2001 && head[1] == 0xDB8) && head[0] != 0x3FFF
        }
    }
}
