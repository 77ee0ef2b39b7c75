//! What only context tells: names, passports, permits, WeChat and QQ. One automaton finds the words
//! of context; what stands behind (or, for titles, before) them is read from there.

use aho_corasick::{AhoCorasick, MatchKind};

use super::kind::Kind;
use super::scan::{Found, TOLD};

/// What follows, or goes before, a word of context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cue {
    /// A label: a name after `：` or `:`.
    NameAfter,
    /// A title: a Chinese name before it.
    NameBefore,
    /// An English title: a name after it.
    TitleAfter,
    Passport,
    Permit,
    Wechat,
    Qq,
}

const CUES: &[(Cue, &[&str])] = &[
    (
        Cue::NameAfter,
        &[
            "姓名",
            "联系人",
            "收件人",
            "收货人",
            "寄件人",
            "申请人",
            "被申请人",
            "原告",
            "被告",
            "上诉人",
            "被上诉人",
            "法定代表人",
            "委托代理人",
            "患者",
            "客户",
            "经办人",
            "负责人",
            "户主",
            "户名",
            "持卡人",
            "投保人",
            "被保险人",
            "受益人",
            "债权人",
            "债务人",
            "证人",
            "犯罪嫌疑人",
            "被告人",
            "被害人",
            "学生",
            "家长",
            "签名",
            "名字",
            "Name",
            "Full name",
            "Customer",
            "Patient",
            "Contact",
            "Recipient",
            "Cardholder",
            "Plaintiff",
            "Defendant",
            "Signed",
        ],
    ),
    (
        Cue::NameBefore,
        &[
            "先生", "女士", "小姐", "同志", "医生", "大夫", "律师", "法官", "老师", "教授", "经理", "主任", "警官",
            "师傅",
        ],
    ),
    (Cue::TitleAfter, &["Mr. ", "Mr ", "Mrs. ", "Mrs ", "Ms. ", "Ms ", "Dr. ", "Dr ", "Prof. ", "Miss "]),
    (Cue::Passport, &["护照", "Passport", "passport", "PASSPORT"]),
    (Cue::Permit, &["通行证", "回乡证", "台胞证", "居住证", "往来港澳", "还乡证"]),
    (Cue::Wechat, &["微信", "WeChat", "wechat", "Wechat", "weixin", "vx", "VX", "wx号", "WX"]),
    (Cue::Qq, &["QQ", "qq", "企鹅号", "扣扣"]),
];

/// Surnames of one character, the two hundred that nearly all bear, without those that are far more
/// often another word in front of a title or label (和, 向, 于, 应, 那, 时, …).
const SURNAMES: &str = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖田董袁潘蒋蔡余杜叶程苏魏吕丁任沈姚卢姜崔钟谭陆汪范金石廖贾夏韦傅方白邹孟熊秦邱江尹薛闫段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔汤俞章鲍葛常岳齐梅庄辛管祝左涂谷祁舒耿牟卜詹关苗凌费纪靳盛童欧甄项曲游阳裴席卫查屈鲁骆岑蓝殷柯翁阮季娄柴褚聂翟焦柏倪樊霍";
/// Surnames of two characters.
const DOUBLE: [&str; 14] =
    ["欧阳", "司马", "上官", "诸葛", "夏侯", "东方", "皇甫", "尉迟", "公孙", "慕容", "令狐", "司徒", "长孙", "端木"];

/// Finds what context tells.
pub struct Context {
    automaton: AhoCorasick,
    cues: Vec<Cue>,
}

impl Default for Context {
    fn default() -> Self {
        Self::new()
    }
}

impl Context {
    /// With all words of context.
    pub fn new() -> Context {
        let words: Vec<&str> = CUES.iter().flat_map(|(_, words)| words.iter().copied()).collect();
        let cues = CUES.iter().flat_map(|(cue, words)| words.iter().map(|_| *cue)).collect();
        let automaton = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(words);
        Context { automaton: automaton.expect("a hundred words"), cues }
    }

    pub(super) fn find(&self, text: &str, found: &mut Vec<(u8, Found)>) {
        for hit in self.automaton.find_iter(text) {
            let after = &text[hit.end()..];
            let at = hit.end();
            let word = |at: usize| text.as_bytes().get(at).is_some_and(u8::is_ascii_alphanumeric);
            let ascii = text.as_bytes()[hit.start()].is_ascii();
            if ascii && hit.start() > 0 && word(hit.start() - 1) {
                continue;
            }
            let mut push = |kind, from: usize, to: usize| {
                if to > from {
                    found.push((TOLD, Found { kind, at: from..to }));
                }
            };
            match self.cues[hit.pattern().as_usize()] {
                Cue::NameAfter => {
                    let skip = label_end(after);
                    let rest = &after[skip..];
                    let len = if skip == 0 { 0 } else { name_at(rest) };
                    push(Kind::Name, at + skip, at + skip + len);
                }
                Cue::TitleAfter => {
                    let len = english_name(after);
                    push(Kind::Name, at, at + len);
                }
                Cue::NameBefore => {
                    let start = name_before(&text[..hit.start()]);
                    push(Kind::Name, start, hit.start());
                }
                Cue::Passport => {
                    if let Some((from, to)) = token_after(after, 24, |t| {
                        let letters = t.bytes().take_while(u8::is_ascii_alphabetic).count();
                        (7..=9).contains(&t.len())
                            && letters <= 2
                            && t[letters..].bytes().filter(u8::is_ascii_digit).count() >= 6
                    }) {
                        push(Kind::Passport, at + from, at + to);
                    }
                }
                Cue::Permit => {
                    if let Some((from, to)) = token_after(after, 24, |t| {
                        let letters = t.bytes().take_while(u8::is_ascii_alphabetic).count();
                        let digits = t.len() - letters;
                        letters <= 2 && (7..=10).contains(&digits) && t[letters..].bytes().all(|b| b.is_ascii_digit())
                    }) {
                        push(Kind::Permit, at + from, at + to);
                    }
                }
                Cue::Wechat => {
                    if let Some((from, to)) = token_after(after, 18, |t| {
                        (6..=20).contains(&t.len())
                            && (t.as_bytes()[0].is_ascii_alphabetic() || (t.len() == 11 && t.starts_with('1')))
                            && t.bytes().any(|b| b.is_ascii_digit() || matches!(b, b'_' | b'-'))
                    }) {
                        push(Kind::Wechat, at + from, at + to);
                    }
                }
                Cue::Qq => {
                    if let Some((from, to)) = token_after(after, 18, |t| {
                        (5..=11).contains(&t.len()) && t.bytes().all(|b| b.is_ascii_digit()) && !t.starts_with('0')
                    }) {
                        push(Kind::Qq, at + from, at + to);
                    }
                }
            }
        }
    }
}

/// Bytes of `：` or `:` with the space around it; 0 when there is none.
fn label_end(after: &str) -> usize {
    let bare = after.trim_start_matches([' ', '\u{3000}']);
    let Some(rest) = bare.strip_prefix(['：', ':']) else { return 0 };
    after.len() - rest.trim_start_matches([' ', '\u{3000}', '\t']).len()
}

/// The first word of ASCII letters, digits, `_`, `-` within some bytes, when it is what is sought;
/// only connecting words may stand before it.
fn token_after(after: &str, reach: usize, sought: impl Fn(&str) -> bool) -> Option<(usize, usize)> {
    let near = &after[..crate::normalize::floor(after, reach)];
    let start = near.find(|c: char| c.is_ascii_alphanumeric())?;
    let between = &after[..start];
    let connects = between.chars().all(|c| {
        matches!(
            c,
            ' ' | ':'
                | '：'
                | '号'
                | '码'
                | '是'
                | '为'
                | '群'
                | '加'
                | '我'
                | '的'
                | '证'
                | '件'
                | '（'
                | '('
                | '、'
                | '#'
                | '.'
                | '，'
        )
    });
    let token: &str = after[start..].split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '-').next()?;
    let token = token.trim_end_matches('-');
    // `Passport No. E12345678`.
    if matches!(token, "No" | "no" | "NO" | "Number" | "number" | "ID" | "id" | "is") && connects {
        let skip = start + token.len();
        return token_after(&after[skip..], reach, sought).map(|(from, to)| (from + skip, to + skip));
    }
    (connects && sought(token)).then_some((start, start + token.len()))
}

/// Bytes of a name at the start of a text.
fn name_at(text: &str) -> usize {
    let han = chinese_name(text);
    if han > 0 { han } else { english_name(text) }
}

fn is_han(c: char) -> bool {
    ('\u{4E00}'..='\u{9FFF}').contains(&c) || c == '某'
}

/// A surname with one or two characters, nothing but punctuation, space or a connecting word after.
fn chinese_name(text: &str) -> usize {
    let surname = match DOUBLE.iter().find(|name| text.starts_with(**name)) {
        Some(name) => name.len(),
        None => match text.chars().next().filter(|c| SURNAMES.contains(*c)) {
            Some(c) => c.len_utf8(),
            None => return 0,
        },
    };
    let given: Vec<char> = text[surname..].chars().take(3).collect();
    let ends = |c: Option<&char>| {
        c.is_none_or(|c| {
            !is_han(*c)
                || matches!(c, '与' | '和' | '及' | '诉' | '因' | '系' | '于' | '在' | '为' | '是' | '男' | '女' | '的')
        })
    };
    for len in [2, 1] {
        if given.len() >= len && given[..len].iter().all(|c| is_han(*c)) && ends(given.get(len)) {
            return surname + given[..len].iter().map(|c| c.len_utf8()).sum::<usize>();
        }
    }
    0
}

/// One to three capitalised words.
fn english_name(text: &str) -> usize {
    let mut end = 0;
    for (count, word) in text.split(' ').enumerate() {
        let bare = word.trim_end_matches([',', '.', ';', ':', '!', '?', ')', '\'', '"']);
        let letters = bare.strip_suffix("'s").unwrap_or(bare);
        let mut chars = letters.chars();
        let capital = chars.next().is_some_and(char::is_uppercase);
        let rest = chars.as_str();
        let initial = rest.is_empty() && word.ends_with('.');
        let name = capital
            && (initial
                || (!rest.is_empty()
                    && rest.chars().all(|c| c.is_lowercase() || matches!(c, '-' | '\'') || c.is_uppercase())));
        if !name || count == 3 {
            break;
        }
        let start = if count == 0 { 0 } else { end + 1 };
        end = start + if initial { word.len() } else { letters.len() };
        if letters.len() < word.len() && !initial {
            break;
        }
    }
    end
}

/// Where a Chinese name begins that ends at the end of a text: a surname alone (王先生), or a
/// surname with one or two characters; the longest that begins behind a boundary, else the surname
/// alone.
fn name_before(text: &str) -> usize {
    let tail: Vec<(usize, char)> = text.char_indices().rev().take(5).collect();
    let han = tail.iter().take_while(|(_, c)| is_han(*c)).count();
    let starts = |count: usize| tail.get(count - 1).filter(|_| count <= han).map(|(at, _)| *at);
    let surname = |at: usize| {
        DOUBLE.iter().find(|name| text[at..].starts_with(**name)).map_or_else(
            || text[at..].chars().next().filter(|c| SURNAMES.contains(*c)).map_or(0, char::len_utf8),
            |name| name.len(),
        )
    };
    // Double surnames with and without a given name.
    for count in [4, 3, 2] {
        if let Some(at) = starts(count)
            && surname(at) == 6
        {
            return at;
        }
    }
    // A boundary: the start of the text, no ideograph, or a word that goes before persons.
    let before = |count: usize| tail.get(count).map(|(_, c)| *c);
    let boundary = |c: Option<char>| {
        c.is_none_or(|c| {
            !is_han(c)
                || matches!(
                    c,
                    '与' | '和'
                        | '及'
                        | '对'
                        | '向'
                        | '给'
                        | '由'
                        | '请'
                        | '是'
                        | '为'
                        | '被'
                        | '告'
                        | '人'
                        | '的'
                        | '位'
                        | '让'
                        | '叫'
                        | '跟'
                        | '谢'
                        | '而'
                        | '但'
                        | '在'
                )
        })
    };
    for count in [3, 2] {
        if let Some(at) = starts(count)
            && surname(at) == 3
            && boundary(before(count))
        {
            return at;
        }
    }
    match starts(1) {
        Some(at) if surname(at) == 3 => at,
        _ => text.len(),
    }
}
