//! The secret of the cluster, from the file that the configuration names.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use panch_wire::peer::Secret;

/// The most bytes of such a file.
const SIZE_MAX: u64 = 4096;

/// Reads the secret: the bytes of the file without blanks and line ends around them.
///
/// # Errors
/// What is wrong and what to do. The text never shows what is in the file.
pub fn read(path: &Path) -> Result<Secret, String> {
    let shown = path.display();
    let cannot = |error| format!("cannot read the cluster secret {shown}: {error}");
    let meta = fs::metadata(path).map_err(cannot)?;
    if meta.permissions().mode() & 0o007 != 0 {
        return Err(format!(
            "everybody on this machine may use the cluster secret {shown}: chmod o= {shown}"
        ));
    }
    if meta.len() > SIZE_MAX {
        return Err(format!(
            "the cluster secret {shown} is longer than {SIZE_MAX} bytes: use a short random text"
        ));
    }
    let bytes = fs::read(path).map_err(cannot)?;
    Secret::new(bytes.trim_ascii()).ok_or_else(|| {
        format!(
            "the cluster secret {shown} is shorter than {} bytes: make one for all nodes with `head -c 32 /dev/urandom | base64`",
            Secret::SIZE_MIN
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_long_enough_and_nobody_elses_and_line_ends_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        let written = |bytes: &[u8], mode: u32| {
            fs::write(&file, bytes).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            read(&file)
        };
        assert!(read(&file).unwrap_err().contains("cannot read"));
        let secret = written(b"0123456789abcdef", 0o600).unwrap();
        assert_eq!(written(b"0123456789abcdef\n", 0o640), Ok(secret));
        let short = written(b"0123456789abcde\n", 0o600).unwrap_err();
        assert!(short.contains("shorter than 16 bytes") && !short.contains("0123"), "{short}");
        assert!(written(b"0123456789abcdef", 0o644).unwrap_err().contains("chmod o="));
        assert!(written(&[b'x'; 5000], 0o600).unwrap_err().contains("longer"));
    }
}
