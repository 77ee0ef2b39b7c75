//! Check digits and structure of identifiers. Each function takes the bare characters, without
//! separators, and says whether the identifier can exist.

/// Values of the digits of a text.
fn digits(text: &str) -> impl DoubleEndedIterator<Item = u32> + '_ {
    text.bytes().map(|b| u32::from(b.wrapping_sub(b'0')))
}

/// The last character of a resident id, from its first 17 digits (GB 11643, ISO 7064 MOD 11-2).
pub fn resident_check(first17: &str) -> char {
    const WEIGHTS: [u32; 17] = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];
    let sum: u32 = digits(first17).zip(WEIGHTS).map(|(d, w)| d * w).sum();
    char::from(b"10X98765432"[sum as usize % 11])
}

/// A resident id of 18 characters: region, date of birth, check digit. Residence permits for
/// Hongkong, Macao and Taiwan (81, 82, 83) and for foreigners (9…) are built the same way.
pub fn resident_id(id: &str) -> bool {
    let bytes = id.as_bytes();
    bytes.len() == 18
        && bytes[..17].iter().all(u8::is_ascii_digit)
        && region(&id[..2])
        && date(&id[6..10], &id[10..12], &id[12..14])
        && resident_check(&id[..17]) == char::from(bytes[17].to_ascii_uppercase())
}

/// A resident id of 15 digits, as issued until 1999: no check digit, so region and date must do.
pub fn resident_id_15(id: &str) -> bool {
    id.len() == 15
        && id.bytes().all(|b| b.is_ascii_digit())
        && region(&id[..2])
        && id[2..6] != *"0000"
        && date(&format!("19{}", &id[6..8]), &id[8..10], &id[10..12])
}

/// Provinces of GB/T 2260, and 91, 92 of permits.
fn region(two: &str) -> bool {
    matches!(two.parse::<u8>(), Ok(11..=15 | 21..=23 | 31..=37 | 41..=46 | 50..=54 | 61..=65 | 71 | 81..=83 | 91 | 92))
}

fn date(year: &str, month: &str, day: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().unwrap_or(0);
    let (year, month, day) = (number(year), number(month), number(day));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        _ => 0,
    };
    (1900..=2100).contains(&year) && (1..=days).contains(&day)
}

const CREDIT: &[u8] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";

/// The last character of a unified social credit code, from its first 17 (GB 32100).
pub fn credit_check(first17: &str) -> Option<char> {
    let mut weight = 1;
    let mut sum = 0;
    for byte in first17.bytes() {
        sum += CREDIT.iter().position(|c| *c == byte)? * weight;
        weight = weight * 3 % 31;
    }
    Some(char::from(CREDIT[(31 - sum % 31) % 31]))
}

/// A unified social credit code: 18 characters, authority, kind, region, check character.
pub fn credit_code(code: &str) -> bool {
    let bytes = code.as_bytes();
    bytes.len() == 18
        && matches!(bytes[0], b'1'..=b'9' | b'A' | b'N' | b'Y')
        && bytes[2..8].iter().all(u8::is_ascii_digit)
        && (region(&code[2..4]) || &code[2..4] == "10")
        && credit_check(&code[..17]) == Some(char::from(bytes[17]))
}

/// Luhn's sum of a card number.
pub fn luhn(number: &str) -> bool {
    let sum: u32 =
        digits(number).rev().enumerate().map(|(i, d)| if i % 2 == 1 { d * 2 - 9 * u32::from(d > 4) } else { d }).sum();
    sum.is_multiple_of(10) && number.bytes().any(|b| b != b'0')
}

/// A bank card: a length its issuer uses, and Luhn's sum.
pub fn bank_card(number: &str) -> bool {
    let two = number[..2.min(number.len())].parse::<u32>().unwrap_or(0);
    let four = number[..4.min(number.len())].parse::<u32>().unwrap_or(0);
    let length = match (two, four) {
        (34 | 37, _) => number.len() == 15,
        (30 | 36 | 38, _) => (14..=19).contains(&number.len()),
        (40..=49, _) => matches!(number.len(), 13 | 16 | 19),
        (51..=55, _) | (_, 2221..=2720) => number.len() == 16,
        (35, _) | (60, 6011) | (64 | 65, _) => (16..=19).contains(&number.len()),
        (62 | 81, _) => (16..=19).contains(&number.len()),
        // Maestro, and old debit cards of Chinese banks.
        (50 | 56..=61 | 63 | 66..=69 | 90 | 94..=99, _) => (16..=19).contains(&number.len()),
        _ => false,
    };
    length && luhn(number)
}

/// ISO 13616: two letters, two check digits, and a remainder of 1 by 97.
pub fn iban(text: &str) -> bool {
    let bytes = text.as_bytes();
    if !(15..=34).contains(&bytes.len()) || !bytes[..2].iter().all(u8::is_ascii_uppercase) {
        return false;
    }
    let Some((_, length)) = IBAN.iter().find(|(country, _)| country.as_bytes() == &bytes[..2]) else { return false };
    *length == bytes.len() && iban_remainder(text) == Some(1)
}

/// Countries of the registry with the length of their numbers.
const IBAN: [(&str, usize); 40] = [
    ("AD", 24),
    ("AE", 23),
    ("AT", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BR", 29),
    ("CH", 21),
    ("CY", 28),
    ("CZ", 28),
    ("DE", 22),
    ("DK", 18),
    ("EE", 20),
    ("ES", 24),
    ("FI", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GR", 27),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IS", 26),
    ("IT", 27),
    ("KW", 30),
    ("KZ", 20),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("MC", 27),
    ("NL", 18),
    ("NO", 15),
    ("PL", 28),
    ("PT", 25),
    ("SA", 24),
    ("SE", 24),
    ("TR", 26),
];

fn iban_remainder(text: &str) -> Option<u32> {
    let turned = text[4..].bytes().chain(text[..4].bytes());
    turned.into_iter().try_fold(0u32, |rest, byte| match byte {
        b'0'..=b'9' => Some((rest * 10 + u32::from(byte - b'0')) % 97),
        b'A'..=b'Z' => Some((rest * 100 + u32::from(byte - b'A') + 10) % 97),
        _ => None,
    })
}

/// A US social security number: areas 000, 666, 900 to 999, group 00 and serial 0000 are not given.
pub fn ssn(nine: &str) -> bool {
    nine.len() == 9
        && !matches!(&nine[..3], "000" | "666")
        && !nine.starts_with('9')
        && &nine[3..5] != "00"
        && &nine[5..] != "0000"
        // The number of an advertisement, and runs, which stand in examples.
        && !matches!(nine, "078051120" | "123456789" | "219099999")
}

/// The check character of a Hongkong identity card: one or two letters, six digits.
pub fn hongkong_id(letters: &str, six: &str, check: char) -> bool {
    let value = |b: u8| u32::from(b - b'A') + 10;
    let mut sum = match letters.as_bytes() {
        [one] => 36 * 9 + value(*one) * 8,
        [one, two] => value(*one) * 9 + value(*two) * 8,
        _ => return false,
    };
    sum += digits(six).zip([7, 6, 5, 4, 3, 2]).map(|(d, w)| d * w).sum::<u32>();
    let check_value = if check == 'A' { 10 } else { check.to_digit(10).unwrap_or(11) };
    six.len() == 6 && (sum + check_value).is_multiple_of(11)
}

/// The check digit of an identity card of Taiwan: a letter, then nine digits.
pub fn taiwan_id(letter: u8, nine: &str) -> bool {
    const ORDER: &[u8] = b"ABCDEFGHJKLMNPQRSTUVXYWZIO";
    let Some(at) = ORDER.iter().position(|c| *c == letter) else { return false };
    let code = at as u32 + 10;
    let sum =
        code / 10 + code % 10 * 9 + digits(nine).zip([8, 7, 6, 5, 4, 3, 2, 1, 1]).map(|(d, w)| d * w).sum::<u32>();
    nine.len() == 9 && matches!(nine.as_bytes()[0], b'1' | b'2' | b'8' | b'9') && sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_own_samples_pass_and_every_other_last_character_fails() {
        let id = "11010519491231002X";
        assert!(resident_id(id) && resident_id("11010519491231002x"));
        assert!(!"0123456789".chars().any(|c| resident_id(&format!("{}{c}", &id[..17]))));
        let code = "91350100M000100Y43";
        assert!(credit_code(code));
        assert_eq!(CREDIT.iter().filter(|c| credit_code(&format!("{}{}", &code[..17], char::from(**c)))).count(), 1);
    }

    #[test]
    fn one_wrong_digit_is_always_seen() {
        let id = "11010519491231002X";
        for at in 0..17 {
            for d in b'0'..=b'9' {
                let mut other = id.as_bytes().to_vec();
                if other[at] != d {
                    other[at] = d;
                    assert!(!resident_id(std::str::from_utf8(&other).unwrap()));
                }
            }
        }
    }

    #[test]
    fn dates_and_regions_must_exist() {
        let with_check = |first: &str| format!("{first}{}", resident_check(first));
        assert!(resident_id(&with_check("11010520000229002")));
        assert!(!resident_id(&with_check("11010519990229002")));
        assert!(!resident_id(&with_check("11010519991331002")));
        assert!(!resident_id(&with_check("99010519991231002")));
        assert!(resident_id(&with_check("81000019900101001")) && resident_id(&with_check("83000019900101001")));
        assert!(resident_id_15("110105491231002") && !resident_id_15("110105491331002"));
    }

    #[test]
    fn cards_numbers_and_cards_of_identity_have_their_sums() {
        for card in ["4111111111111111", "5555555555554444", "378282246310005", "6200000000000005", "3530111333300000"]
        {
            assert!(bank_card(card), "{card}");
            let off = format!("{}{}", &card[..card.len() - 1], (card.as_bytes()[card.len() - 1] - b'0' + 1) % 10);
            assert!(!bank_card(&off), "{off}");
        }
        assert!(!bank_card("0000000000000000") && !bank_card("1234567812345670"));
        for number in
            ["DE89370400440532013000", "GB82WEST12345698765432", "FR1420041010050500013M02606", "NL91ABNA0417164300"]
        {
            assert!(iban(number), "{number}");
        }
        assert!(!iban("DE88370400440532013000") && !iban("DE8937040044053201300") && !iban("XX82WEST12345698765432"));
        assert!(ssn("536904399") && !ssn("000904399") && !ssn("666904399") && !ssn("900904399") && !ssn("536004399"));
        assert!(
            hongkong_id("G", "123456", 'A') && !hongkong_id("G", "123456", '1') && hongkong_id("AB", "987654", '3')
        );
        assert!(taiwan_id(b'A', "123456789") && !taiwan_id(b'A', "123456788"));
    }
}
