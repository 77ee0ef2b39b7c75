//! Fakes that stand for found values. A fake is a function of the key and the value without
//! separators, so one person is the same fake in every turn, file and run with that key, and
//! nobody without the key can tell which value it stands for. Shapes are kept; check digits are
//! wrong on purpose and addresses are those set aside for documentation, unless `valid` asks for
//! numbers that pass their checks. Pools of names are small: two people may get one name.

use sha2::{Digest, Sha256};

use super::checks;
use super::kind::Kind;

/// A stream of numbers from key, kind and value.
struct Stream {
    seed: [u8; 32],
    block: [u8; 32],
    used: usize,
    count: u64,
}

impl Stream {
    fn new(key: &str, kind: Kind, bare: &str) -> Stream {
        let mut hash = Sha256::new();
        hash.update((key.len() as u64).to_le_bytes());
        hash.update(key);
        hash.update(kind.rule());
        hash.update([0]);
        hash.update(bare);
        Stream { seed: hash.finalize().into(), block: [0; 32], used: 32, count: 0 }
    }

    fn below(&mut self, n: u32) -> u32 {
        if self.used + 4 > 32 {
            let mut hash = Sha256::new();
            hash.update(self.seed);
            hash.update(self.count.to_le_bytes());
            self.block = hash.finalize().into();
            (self.used, self.count) = (0, self.count + 1);
        }
        let four =
            [self.block[self.used], self.block[self.used + 1], self.block[self.used + 2], self.block[self.used + 3]];
        self.used += 4;
        ((u64::from(u32::from_le_bytes(four)) * u64::from(n)) >> 32) as u32
    }

    fn digits(&mut self, count: usize) -> String {
        (0..count).map(|_| char::from(b'0' + self.below(10) as u8)).collect()
    }

    fn pick<'p>(&mut self, pool: &'p str) -> &'p str {
        let words: Vec<&str> = pool.split(' ').collect();
        words[self.below(words.len() as u32) as usize]
    }
}

/// The value without what separates its parts, in one case.
fn bare(kind: Kind, value: &str) -> String {
    match kind {
        Kind::Name => value.trim().to_owned(),
        Kind::Email | Kind::Ip | Kind::Wechat => value.to_ascii_lowercase(),
        Kind::Mobile => {
            let digits: String = value.chars().filter(char::is_ascii_digit).collect();
            digits[digits.len().saturating_sub(11)..].to_owned()
        }
        _ => value.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_uppercase).collect(),
    }
}

const ZH_GIVEN: &str = "伟 芳 娜 敏 静 丽 强 磊 军 洋 勇 艳 杰 娟 涛 明 超 霞 平 刚 建华 建国 文静 晓东 志强 海燕 雪梅 丽华 国庆 春燕 子轩 雨桐 浩然 思远 欣怡 俊杰 佳琪 梦瑶 天宇 若曦";
const ZH_SURNAME: &str = "王 李 张 刘 陈 杨 黄 赵 吴 周 徐 孙 马 朱 胡 郭 何 高 林 罗 郑 梁 谢 宋 唐 许 韩 冯 邓 曹";
const EN_GIVEN: &str = "Alex Blake Casey Dana Ellis Finley Gray Harper Indigo Jamie Kai Logan Morgan Noel Oakley Parker Quinn Reese Sage Taylor";
const EN_SURNAME: &str = "Abbott Barnes Carver Dalton Ewing Foster Garner Holt Ingram Jarvis Keller Lowell Mercer Nolan Osborne Prescott Ramsey Sutton Thorne Whitman";

/// The fake for a value. With `valid` its check digits are right.
pub fn surrogate(kind: Kind, value: &str, key: &str, valid: bool) -> String {
    let bare = bare(kind, value);
    let mut stream = Stream::new(key, kind, &bare);
    let s = &mut stream;
    match kind {
        Kind::ResidentId => {
            let date = format!("{}{:02}{:02}", 1950 + s.below(55), 1 + s.below(12), 1 + s.below(28));
            let first = format!("110105{date}{}", s.digits(3));
            let right = checks::resident_check(&first);
            let wrong = char::from(
                b"10X98765432"[(1 + b"10X98765432".iter().position(|c| char::from(*c) == right).unwrap_or(0)) % 11],
            );
            format!("{first}{}", if valid { right } else { wrong })
        }
        Kind::CreditCode => {
            let first = format!("91110105MA{}", s.digits(7));
            let right = checks::credit_check(&first).unwrap_or('0');
            let wrong = if right == '0' { '1' } else { '0' };
            format!("{first}{}", if valid { right } else { wrong })
        }
        // 144 is for machines and has 13 digits in use: 11 digits reach nobody.
        Kind::Mobile => format!("144{}", s.digits(8)),
        // Numbers do not begin with 1: those are services.
        Kind::Landline => format!("010-1{}", s.digits(7)),
        Kind::BankCard => {
            let length = bare.len().clamp(13, 19);
            let body = format!("62{}", s.digits(length - 3));
            let right = (0..10).find(|d| checks::luhn(&format!("{body}{d}"))).unwrap_or(0);
            format!("{body}{}", if valid { right } else { (right + 1) % 10 })
        }
        Kind::Plate => {
            let energy = usize::from(bare.chars().count() > 7);
            // Offices with Z exist nowhere.
            format!("{}Z{}", value.chars().next().unwrap_or('京'), s.digits(5 + energy))
        }
        Kind::Passport => format!("E{}", s.digits(8)),
        Kind::Permit => format!("C{}", s.digits(8)),
        Kind::Wechat => format!("wxid_{}", s.digits(10)),
        Kind::Qq => format!("{}{}", 1 + s.below(9), s.digits(bare.len().clamp(5, 11) - 1)),
        Kind::Email => format!("user{}@example.com", s.digits(6)),
        Kind::Ip if value.contains(':') => {
            format!("2001:db8:{:x}:{:x}::{:x}", s.below(65536), s.below(65536), 1 + s.below(65535))
        }
        Kind::Ip => format!("{}.{}", ["192.0.2", "198.51.100", "203.0.113"][s.below(3) as usize], 1 + s.below(254)),
        Kind::Mac => {
            let separator = if value.contains('-') { "-" } else { ":" };
            let rest: Vec<String> = (0..5).map(|_| format!("{:02x}", s.below(256))).collect();
            format!("02{separator}{}", rest.join(separator))
        }
        Kind::Name if value.is_ascii() => {
            let (given, surname) = (s.pick(EN_GIVEN), s.pick(EN_SURNAME));
            if value.contains(' ') { format!("{given} {surname}") } else { surname.to_owned() }
        }
        Kind::Name => {
            let (surname, given) = (s.pick(ZH_SURNAME), s.pick(ZH_GIVEN));
            if value.chars().count() == 1 { surname.to_owned() } else { format!("{surname}{given}") }
        }
        Kind::Iban => {
            let country = &bare[..2.min(bare.len())];
            let body = s.digits(bare.len().saturating_sub(4));
            // 02 to 98, of which one is right.
            let right = (2..99).find(|d| checks::iban(&format!("{country}{d:02}{body}"))).unwrap_or(2);
            format!("{country}{:02}{body}", if valid { right } else { (right - 1) % 97 + 2 })
        }
        // Areas from 900 are never given.
        Kind::Ssn => format!("9{}-{:02}-{}", s.digits(2), 1 + s.below(49), s.digits(4)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_has_one_fake_whatever_its_separators_and_another_key_another() {
        let fake = |value: &str, key: &str| surrogate(Kind::Mobile, value, key, false);
        assert_eq!(fake("13812345678", "k"), fake("+86 138-1234-5678", "k"));
        assert_ne!(fake("13812345678", "k"), fake("13812345678", "other"));
        assert_ne!(fake("13812345678", "k"), fake("13812345679", "k"));
        assert_eq!(surrogate(Kind::Email, "A@b.cn", "k", false), surrogate(Kind::Email, "a@b.cn", "k", false));
    }

    #[test]
    fn check_digits_are_wrong_unless_asked_for() {
        for i in 0..200 {
            let value = i.to_string();
            let of = |kind, valid| surrogate(kind, &value, "k", valid);
            assert!(
                !checks::resident_id(&of(Kind::ResidentId, false)) && checks::resident_id(&of(Kind::ResidentId, true))
            );
            assert!(
                !checks::credit_code(&of(Kind::CreditCode, false)) && checks::credit_code(&of(Kind::CreditCode, true))
            );
            assert!(
                !checks::luhn(&of(Kind::BankCard, false))
                    && checks::bank_card(&surrogate(Kind::BankCard, "6222020200112233445", "k", true))
            );
            let iban = format!("DE8937040044053201{i:04}");
            assert!(
                !checks::iban(&surrogate(Kind::Iban, &iban, "k", false))
                    && checks::iban(&surrogate(Kind::Iban, &iban, "k", true))
            );
            assert!(!checks::ssn(&of(Kind::Ssn, false).replace('-', "")));
        }
    }

    #[test]
    fn shapes_are_kept() {
        assert_eq!(surrogate(Kind::Name, "王", "k", false).chars().count(), 1);
        assert!(surrogate(Kind::Name, "John Smith", "k", false).contains(' '));
        assert!(surrogate(Kind::Ip, "2400:3200::1", "k", false).parse::<std::net::Ipv6Addr>().is_ok());
        assert!(surrogate(Kind::Ip, "8.8.8.8", "k", false).parse::<std::net::Ipv4Addr>().is_ok());
        assert_eq!(surrogate(Kind::Mac, "00-1A-2B-3C-4D-5E", "k", false).matches('-').count(), 5);
        assert_eq!(surrogate(Kind::Plate, "粤BD12345", "k", false).chars().count(), 8);
    }
}
