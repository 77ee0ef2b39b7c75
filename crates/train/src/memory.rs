//! Memory of this process, from the operating system. Absent where the system does not tell.

/// Bytes of a field such as `VmHWM` of `/proc/self/status`.
fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|l| l.strip_prefix(field).is_some_and(|rest| rest.starts_with(':')))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Largest resident size so far, in bytes.
pub fn peak_bytes() -> Option<u64> {
    status("VmHWM")
}

/// Resident size now, in bytes.
pub fn resident_bytes() -> Option<u64> {
    status("VmRSS")
}

/// Memory that this machine can give without swapping, in bytes.
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// `n` bytes for people: three digits, binary units.
pub fn human(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.*} {unit}", digits(value)) };
        }
        value /= 1024.0;
    }
    format!("{value:.*} TiB", digits(value))
}

fn digits(value: f64) -> usize {
    if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(999), "999 B");
        assert_eq!(human(1536), "1.50 KiB");
        assert_eq!(human(23 << 30), "23.0 GiB");
        assert_eq!(human(700 << 30), "700 GiB");
        assert_eq!(human(3 << 40), "3.00 TiB");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_a_size() {
        let (now, peak) = (resident_bytes().unwrap(), peak_bytes().unwrap());
        assert!(now > 0 && peak > 0);
        let block = vec![1u8; 64 << 20];
        assert!(resident_bytes().unwrap() >= 64 << 20, "{}", block.len());
    }
}
