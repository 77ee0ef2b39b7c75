//! Kinds of personal data, with their names in options, rules and labels.

use serde::{Deserialize, Serialize};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Resident id of China (GB 11643), residence permits of the same build.
    ResidentId,
    /// Unified social credit code (GB 32100).
    CreditCode,
    /// Mobile number of China.
    Mobile,
    /// Fixed line of China.
    Landline,
    /// Bank card.
    BankCard,
    /// Number plate of China.
    Plate,
    /// Passport, where the text says that it is one.
    Passport,
    /// Permits for Hongkong, Macao and Taiwan, where the text says so; their identity cards.
    Permit,
    /// WeChat name, where the text says so.
    Wechat,
    /// QQ number, where the text says so.
    Qq,
    /// E-mail address.
    Email,
    /// IPv4 or IPv6 address.
    Ip,
    /// MAC address.
    Mac,
    /// Name of a person, by what stands before or after it.
    Name,
    /// International bank account number.
    Iban,
    /// US social security number.
    Ssn,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 16] = [
        Kind::ResidentId,
        Kind::CreditCode,
        Kind::Mobile,
        Kind::Landline,
        Kind::BankCard,
        Kind::Plate,
        Kind::Passport,
        Kind::Permit,
        Kind::Wechat,
        Kind::Qq,
        Kind::Email,
        Kind::Ip,
        Kind::Mac,
        Kind::Name,
        Kind::Iban,
        Kind::Ssn,
    ];

    /// Rule in findings, key in options.
    pub fn rule(self) -> &'static str {
        match self {
            Kind::ResidentId => "resident-id",
            Kind::CreditCode => "credit-code",
            Kind::Mobile => "mobile",
            Kind::Landline => "landline",
            Kind::BankCard => "bank-card",
            Kind::Plate => "plate",
            Kind::Passport => "passport",
            Kind::Permit => "permit",
            Kind::Wechat => "wechat",
            Kind::Qq => "qq",
            Kind::Email => "email",
            Kind::Ip => "ip",
            Kind::Mac => "mac",
            Kind::Name => "name",
            Kind::Iban => "iban",
            Kind::Ssn => "ssn",
        }
    }

    /// What stands in its place: in a Chinese text, in any other.
    pub fn label(self, chinese: bool) -> &'static str {
        let (zh, en) = match self {
            Kind::ResidentId => ("[身份证号]", "[ID_NUMBER]"),
            Kind::CreditCode => ("[统一社会信用代码]", "[CREDIT_CODE]"),
            Kind::Mobile => ("[手机号]", "[MOBILE]"),
            Kind::Landline => ("[电话号码]", "[PHONE]"),
            Kind::BankCard => ("[银行卡号]", "[BANK_CARD]"),
            Kind::Plate => ("[车牌号]", "[PLATE]"),
            Kind::Passport => ("[护照号]", "[PASSPORT]"),
            Kind::Permit => ("[通行证号]", "[PERMIT]"),
            Kind::Wechat => ("[微信号]", "[WECHAT]"),
            Kind::Qq => ("[QQ号]", "[QQ]"),
            Kind::Email => ("[邮箱]", "[EMAIL]"),
            Kind::Ip => ("[IP地址]", "[IP]"),
            Kind::Mac => ("[MAC地址]", "[MAC]"),
            Kind::Name => ("[姓名]", "[NAME]"),
            Kind::Iban => ("[银行账号]", "[IBAN]"),
            Kind::Ssn => ("[社会安全号]", "[SSN]"),
        };
        if chinese { zh } else { en }
    }
}
