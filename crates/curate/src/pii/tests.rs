//! Planted truth for every kind, near misses, policies; and what other tools are expected to find.

use super::*;
use crate::testing::chat;

fn op(options: Options) -> Op {
    Op::new(options).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn found(text: &str) -> Vec<(Kind, String)> {
    let op = op(Options { private_ips: false, ..Options::default() });
    op.find(text).into_iter().map(|f| (f.kind, text[f.at].to_owned())).collect()
}

fn one(text: &str, kind: Kind, value: &str) {
    assert_eq!(found(text), [(kind, value.to_owned())], "{text}");
}

fn none(text: &str) {
    assert_eq!(found(text), [], "{text}");
}

#[test]
fn resident_ids_and_credit_codes_need_their_check_characters() {
    one("身份证号11010519491231002X。", Kind::ResidentId, "11010519491231002X");
    one("身份证１１０１０５１９４９１２３１００２Ｘ。", Kind::ResidentId, "１１０１０５１９４９１２３１００２Ｘ");
    one("110105 19491231 002X", Kind::ResidentId, "110105 19491231 002X");
    one("旧证110105491231002", Kind::ResidentId, "110105491231002");
    one("代码：91350100M000100Y43，", Kind::CreditCode, "91350100M000100Y43");
    for text in
        ["110105194912310021", "11010519491331002X", "x11010519491231002X", "11010519491231002X5", "91350100M000100Y44"]
    {
        none(text);
    }
}

#[test]
fn phones_of_china_are_found_in_their_spellings() {
    for phone in [
        "13812345678",
        "+8613812345678",
        "138-1234-5678",
        "138 1234 5678",
        "+86 138 1234 5678",
        "+86-13812345678",
        "008613812345678",
    ] {
        one(&format!("电话{phone}。"), Kind::Mobile, phone);
    }
    for phone in ["010-62345678", "0755-86123456", "021 62345678", "01062345678", "0371-6612345"] {
        one(&format!("致电{phone}，"), Kind::Landline, phone);
    }
    for text in [
        "12812345678",
        "138123456789",
        "1381234567",
        "3.13812345678",
        "13800000000",
        "编号a13812345678",
        "2010-12-31",
        "1-2-3",
    ] {
        none(text);
    }
}

#[test]
fn cards_need_luhn_and_a_length_of_their_issuer() {
    // Numbers that payment networks publish for tests.
    for card in [
        "4012888888881881",
        "4012-8888-8888-1881",
        "4012 8888 8888 1881",
        "5555555555554444",
        "371449635398431",
        "3714 496353 98431",
        "6011000400000000",
        "3528000700000000",
    ] {
        one(&format!("card {card}"), Kind::BankCard, card);
    }
    let chinese = format!("622202{}", "0200112233");
    let check = (0..10).find(|d| checks::luhn(&format!("{chinese}{d}"))).unwrap();
    one(&format!("卡号{chinese}{check}"), Kind::BankCard, &format!("{chinese}{check}"));
    for text in ["4012888888881882", "4012-8888-8888-1882", "36168002586008", "0000000000000000", "1234567812345670"] {
        none(text);
    }
}

#[test]
fn plates_have_a_province_a_letter_and_their_length() {
    for plate in ["京A12345", "粤BD12345", "沪A·D1234", "浙A8Z99警", "苏E·12345"] {
        let want = if plate == "沪A·D1234" { "沪A·D1234" } else { plate };
        one(&format!("车牌{plate}的车"), Kind::Plate, want);
    }
    for text in ["京A1234", "中A12345", "京a12345", "京A1234567", "川崎X12345"] {
        none(text);
    }
}

#[test]
fn papers_and_accounts_need_words_of_context() {
    one("护照号：E12345678，", Kind::Passport, "E12345678");
    one("Passport No. EA1234567 was lost", Kind::Passport, "EA1234567");
    one("港澳通行证号C12345678", Kind::Permit, "C12345678");
    one("台胞证：12345678", Kind::Permit, "12345678");
    one("回乡证号码为H1234567890", Kind::Permit, "H1234567890");
    one("加我微信：zhang_san88", Kind::Wechat, "zhang_san88");
    one("WeChat: lisi-2020", Kind::Wechat, "lisi-2020");
    one("QQ群：123456789", Kind::Qq, "123456789");
    one("我的qq是10001234", Kind::Qq, "10001234");
    one("ID card A123456(3)", Kind::Permit, "A123456(3)");
    one("身分證 A123456789", Kind::Permit, "A123456789");
    for text in ["E12345678", "编号C12345678", "12345678", "微信支付已完成", "QQ音乐2020年", "A123456(4)", "A123456788"]
    {
        none(text);
    }
}

#[test]
fn names_need_a_label_or_a_title() {
    one("姓名：张伟，男", Kind::Name, "张伟");
    one("联系人: 欧阳文静", Kind::Name, "欧阳文静");
    one("原告：李小明与本案", Kind::Name, "李小明");
    one("感谢王先生的帮助", Kind::Name, "王");
    one("请李小明医生会诊", Kind::Name, "李小明");
    one("司马律师出庭", Kind::Name, "司马");
    one("Name: John Smith", Kind::Name, "John Smith");
    one("said Mr. Jones yesterday", Kind::Name, "Jones");
    one("I met Dr. Mary Jane Watson there", Kind::Name, "Mary Jane Watson");
    for text in [
        "原告请求被告赔偿",
        "各位先生",
        "张开双臂",
        "Mr. and so on",
        "the name of the game",
        "老师好",
        "姓名：保密",
        "Username: John",
    ] {
        none(text);
    }
}

/// Expectations that presidio and datatrove have of their recognisers, as facts about addresses.
#[test]
fn addresses_are_found_as_other_tools_expect() {
    let mails = [
        ("email@example.com", Some("email@example.com")),
        ("firstname.lastname@example.com", Some("firstname.lastname@example.com")),
        ("email@subdomain.example.com", Some("email@subdomain.example.com")),
        ("firstname+lastname@example.com", Some("firstname+lastname@example.com")),
        ("email@123.123.123.123", Some("email@123.123.123.123")),
        ("1234567890@example.com", Some("1234567890@example.com")),
        ("email@example-one.com", Some("email@example-one.com")),
        ("_______@example.com", Some("_______@example.com")),
        ("email@example.co.jp", Some("email@example.co.jp")),
        ("Joe Smith <email@example.com>", Some("email@example.com")),
        ("请发到info@presidio.site。", Some("info@presidio.site")),
        ("email@example@example.com", Some("example@example.com")),
        (".email@example.com", Some("email@example.com")),
        ("email..email@example.com", Some("email@example.com")),
        ("Abc..123@example.com", Some("123@example.com")),
        ("plainaddress", None),
        ("#@%^%#$@#$@#.com", None),
        ("@example.com", None),
        ("email.example.com", None),
        ("email.@example.com", None),
        ("email@example", None),
        ("email@-example.com", None),
        ("email@example..com", None),
        ("あいうえお@example.com", None),
    ];
    for (text, mail) in mails {
        let expected: Vec<_> = mail.iter().map(|m| (Kind::Email, (*m).to_owned())).collect();
        assert_eq!(found(text), expected, "{text}");
    }
    let public = ["163.36.107.25", "114.35.103.54", "57.120.21.121", "8.8.8.8", "2400:3200::1", "2001:4860:4860::8888"];
    for ip in public {
        one(&format!("at {ip}, port"), Kind::Ip, ip);
    }
    one(".3.3.3.0", Kind::Ip, "3.3.3.0");
    let not = [
        "999.999.999.999.",
        "108.0.0.01",
        "0.1.2.3",
        "00.0000.00.00",
        "192.168.l.1",
        "912.456.123.123",
        "172.16.0.9",
        "127.0.0.2",
        "10.0.1.5",
        "192.168.1.2",
        "v1.2.3.4",
        "1.2.3.4.5",
        "fe80::1",
        "::1",
        "12:30:45",
        "std::fmt::Debug",
        "a::b",
        "2001:db8::1",
    ];
    for text in not {
        none(text);
    }
    let private = op(Options { private_ips: true, ..Options::default() });
    for ip in ["192.168.1.2", "10.0.1.5", "fe80::1", "::1"] {
        assert_eq!(private.find(ip).len(), 1, "{ip}");
    }
    one("mac 00:1A:2B:3C:4D:5E.", Kind::Mac, "00:1A:2B:3C:4D:5E");
    one("mac 00-1A-2B-3C-4D-5E.", Kind::Mac, "00-1A-2B-3C-4D-5E");
    none("00:00:00:00:00:00");
    none("00:1A:2B:3C:4D");
    for iban in ["GB82WEST12345698765432", "DE89 3704 0044 0532 0130 00", "NL91ABNA0417164300"] {
        one(&format!("IBAN {iban}"), Kind::Iban, iban);
    }
    none("IBAN GB83WEST12345698765432");
    one("ssn 536-90-4399", Kind::Ssn, "536-90-4399");
    for text in ["078-05-1120", "666-12-3456", "536-00-4399", "000-12-3456"] {
        none(text);
    }
}

/// A thousand identifiers with right and wrong check digits among other text: all of the former,
/// none of the latter.
#[test]
fn planted_identifiers_are_all_found_and_no_other() {
    let mut text = String::new();
    let (mut planted, mut state) = (Vec::new(), 7u64);
    let mut digits = |n: usize| -> String {
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                char::from(b'0' + (state >> 33) as u8 % 10)
            })
            .collect()
    };
    for i in 0..1000 {
        let first = format!("44030619{}0{}{}", 70 + i % 30, 1 + i % 9, 10 + i % 19) + &digits(3);
        let right = checks::resident_check(&first);
        let shown =
            if i % 2 == 0 { right } else { char::from(b"10X98765432"[(1 + "10X98765432".find(right).unwrap()) % 11]) };
        if i % 2 == 0 {
            planted.push(format!("{first}{shown}"));
        }
        text.push_str(&format!("第{i}条记录，证件{first}{shown}，备注无。\n"));
    }
    let got: Vec<String> =
        found(&text).into_iter().filter(|(kind, _)| *kind == Kind::ResidentId).map(|(_, value)| value).collect();
    assert_eq!(got, planted);
}

#[test]
fn policies_edit_drop_or_note_and_evidence_is_masked() {
    let batch = chat(&[("user", "我叫什么？电话13812345678"), ("assistant", "您的电话是138-1234-5678，邮箱a.b@c.cn")]);
    let out = op(Options::default()).apply(&batch);
    assert_eq!(
        out.edits.iter().map(|e| e.text.as_str()).collect::<Vec<_>>(),
        ["我叫什么？电话[手机号]", "您的电话是[手机号]，邮箱[邮箱]"]
    );
    for finding in &out.findings {
        assert_eq!(finding.action, Action::Edit);
        assert!(finding.at.is_some() && finding.note.contains('*') && !finding.note.contains("1234"), "{finding:?}");
    }
    assert_eq!(masked("13812345678"), "1*********8");
    assert_eq!(masked("王小明"), "***");
    let out = op(Options { policy: Policy::Drop, ..Options::default() }).apply(&batch);
    assert!(out.edits.is_empty() && out.findings.iter().all(|f| f.action == Action::Drop));
    let out = op(Options { policy: Policy::Off, kinds: BTreeMap::new(), ..Options::default() }).apply(&batch);
    assert!(out.findings.is_empty());
    let english = chat(&[("user", "write to me@there.org"), ("assistant", "I will")]);
    assert_eq!(op(Options::default()).apply(&english).edits[0].text, "write to [EMAIL]");
}

#[test]
fn surrogates_agree_over_turns_and_need_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, [7u8; 16]).unwrap();
    let options = Options {
        policy: Policy::Surrogate,
        kinds: BTreeMap::new(),
        key_file: Some(key.clone()),
        ..Options::default()
    };
    let batch = chat(&[
        ("user", "电话13812345678，身份证11010519491231002X"),
        ("assistant", "记下了：138 1234 5678，１３８１２３４５６７８"),
    ]);
    let out = op(options.clone()).apply(&batch);
    let fake = surrogate(Kind::Mobile, "13812345678", &"07".repeat(16), false);
    assert_eq!(out.edits[1].text, format!("记下了：{fake}，{fake}"));
    assert!(out.edits[0].text.contains(&fake) && !out.edits[0].text.contains("1949123"));
    assert_eq!(op(options.clone()).apply(&batch).edits, out.edits);
    std::fs::write(&key, b"short").unwrap();
    assert_eq!(Op::new(options.clone()).err().unwrap()[0].key, "key_file");
    assert_eq!(Op::new(Options { key_file: None, ..options }).err().unwrap().len(), 1);
}
