//! Access lists of files and directories.

use std::ffi::c_void;
use std::io;
use std::path::Path;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::LocalFree;
use windows_sys::Win32::Security::Authorization::{
    GetNamedSecurityInfoW, SE_FILE_OBJECT, SetNamedSecurityInfoW,
};
use windows_sys::Win32::Security::{
    ACE_HEADER, ACL, ACL_REVISION_DS, ACL_SIZE_INFORMATION, AclSizeInformation,
    AddAccessAllowedAceEx, AddAccessDeniedAceEx, AddAce, DACL_SECURITY_INFORMATION, EqualSid,
    GetAce, GetAclInformation, InitializeAcl, PSECURITY_DESCRIPTOR, PSID,
};

use super::container::Sid;
use super::{check, check_code, wide};
use crate::supervise::windows::acl::Ace;

/// `ACCESS_ALLOWED_ACE_TYPE` and `ACCESS_DENIED_ACE_TYPE`, whose identity lies
/// right behind header and mask.
const PLAIN: std::ops::RangeInclusive<u8> = 0..=1;
/// `INHERITED_ACE`
const INHERITED: u8 = 0x10;

/// An access list as the system gave it.
struct List {
    acl: *mut ACL,
    descriptor: PSECURITY_DESCRIPTOR,
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: GetNamedSecurityInfoW allocated it for its caller to free, and
        // nothing points into it any more.
        unsafe { LocalFree(self.descriptor) };
    }
}

/// Replaces every entry of `sid` in the list of `path` by `aces`; others stay.
///
/// # Errors
///
/// Returns the system's error; a list that says nothing, by which everybody may
/// do everything, is one too, since an entry would close it to all others.
pub(crate) fn rewrite(path: &Path, sid: &Sid, aces: &[Ace]) -> io::Result<()> {
    let path = wide(path)?;
    let old = read(&path)?;
    if old.acl.is_null() {
        return Err(io::Error::other("it has no access list"));
    }
    // SAFETY: the list is whole as the system gave it.
    let new = unsafe { replaced(old.acl, sid, aces) }?;
    // SAFETY: the path ends with a zero, the list is whole, and what is null is
    // not asked to be set.
    check_code(unsafe {
        SetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION,
            null_mut(),
            null_mut(),
            new.as_ptr().cast(),
            null(),
        )
    })
}

/// A list with `aces` in place of the entries of `sid`, in units of four bytes,
/// as lists are aligned.
///
/// # Safety
///
/// `old` is a whole list.
unsafe fn replaced(old: *const ACL, sid: &Sid, aces: &[Ace]) -> io::Result<Vec<u32>> {
    let mut size = ACL_SIZE_INFORMATION {
        AceCount: 0,
        AclBytesInUse: 0,
        AclBytesFree: 0,
    };
    let length = size_of::<ACL_SIZE_INFORMATION>() as u32;
    // SAFETY: the list is whole; the buffer's size is passed.
    check(unsafe { GetAclInformation(old, (&raw mut size).cast(), length, AclSizeInformation) })?;
    let each = 8 + sid.length();
    let bytes = size.AclBytesInUse as usize + aces.len() * each + size_of::<ACL>();
    let mut memory = vec![0_u32; bytes.div_ceil(4)];
    let acl: *mut ACL = memory.as_mut_ptr().cast();
    let bytes = u32::try_from(memory.len() * 4).map_err(io::Error::other)?;
    // SAFETY: `memory` has that many bytes and is aligned for the structure.
    check(unsafe { InitializeAcl(acl, bytes, ACL_REVISION_DS) })?;
    for ace in aces.iter().filter(|ace| ace.denies) {
        // SAFETY: list and identity are whole, and there is room for the entry.
        check(unsafe {
            AddAccessDeniedAceEx(acl, ACL_REVISION_DS, ace.flags, ace.mask, sid.as_ptr())
        })?;
    }
    let mut allowed = false;
    for index in 0..size.AceCount {
        let mut entry: *mut c_void = null_mut();
        // SAFETY: the index is below the list's count.
        check(unsafe { GetAce(old, index, &mut entry) })?;
        // SAFETY: every entry begins with its header.
        let header = unsafe { *entry.cast::<ACE_HEADER>() };
        if PLAIN.contains(&header.AceType) && is_of(entry, sid) {
            continue;
        }
        // Windows wants what denies first, then what allows, then what is
        // passed on from above.
        let denies = header.AceType == 1 && header.AceFlags & INHERITED == 0;
        if !denies && !allowed {
            allow(acl, sid, aces)?;
            allowed = true;
        }
        let length = header.AceSize.into();
        // SAFETY: the entry is whole, of the length that its header says, and
        // the new list has room for all of the old one.
        check(unsafe { AddAce(acl, ACL_REVISION_DS, u32::MAX, entry, length) })?;
    }
    if !allowed {
        allow(acl, sid, aces)?;
    }
    Ok(memory)
}

fn read(path: &[u16]) -> io::Result<List> {
    let mut list = List {
        acl: null_mut(),
        descriptor: null_mut(),
    };
    // SAFETY: the path ends with a zero; both results outlive the call.
    check_code(unsafe {
        GetNamedSecurityInfoW(
            path.as_ptr(),
            SE_FILE_OBJECT,
            DACL_SECURITY_INFORMATION,
            null_mut(),
            null_mut(),
            &mut list.acl,
            null_mut(),
            &mut list.descriptor,
        )
    })?;
    Ok(list)
}

fn allow(acl: *mut ACL, sid: &Sid, aces: &[Ace]) -> io::Result<()> {
    for ace in aces.iter().filter(|ace| !ace.denies) {
        // SAFETY: list and identity are whole, and there is room for the entry.
        check(unsafe {
            AddAccessAllowedAceEx(acl, ACL_REVISION_DS, ace.flags, ace.mask, sid.as_ptr())
        })?;
    }
    Ok(())
}

/// Whether a plain entry is about `sid`.
fn is_of(entry: *mut c_void, sid: &Sid) -> bool {
    // SAFETY: behind the header of four bytes lies a mask of four bytes, and
    // then the identity, all within the entry.
    let identity: PSID = unsafe { entry.byte_add(8) };
    // SAFETY: both are whole.
    unsafe { EqualSid(identity, sid.as_ptr()) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kind, mask and way of passing on of each plain entry, and whether it is
    /// of `sid`.
    fn entries(list: &[u32], sid: &Sid) -> Vec<(u8, u32, u8, bool)> {
        let mut found = Vec::new();
        for index in 0.. {
            let mut entry: *mut c_void = null_mut();
            // SAFETY: the list is whole; an index past its end is an error.
            if unsafe { GetAce(list.as_ptr().cast(), index, &mut entry) } == 0 {
                return found;
            }
            // SAFETY: every entry of these lists begins with header and mask.
            let (header, mask) = unsafe {
                (
                    *entry.cast::<ACE_HEADER>(),
                    *entry.byte_add(4).cast::<u32>(),
                )
            };
            found.push((header.AceType, mask, header.AceFlags, is_of(entry, sid)));
        }
        found
    }

    fn replaced(list: &[u32], sid: &Sid, aces: &[Ace]) -> Vec<u32> {
        // SAFETY: every list here was made by `replaced` or `InitializeAcl`.
        unsafe { super::replaced(list.as_ptr().cast(), sid, aces) }.unwrap()
    }

    #[test]
    fn entries_of_one_identity_are_replaced_and_others_stay() {
        let mut empty = vec![0_u32; 2];
        // SAFETY: a list without entries has eight bytes.
        let made = unsafe { InitializeAcl(empty.as_mut_ptr().cast(), 8, ACL_REVISION_DS) };
        assert_ne!(made, 0);
        let (sid, other) = (Sid::invented(1), Sid::invented(2));
        let ace = |denies, mask, flags| Ace {
            denies,
            mask,
            flags,
        };
        let theirs = [ace(true, 0x2, 0), ace(false, 0x1, 3)];
        let before = replaced(&empty, &other, &theirs);
        let mine = [ace(false, 0x20, 9), ace(true, 0x40, 0)];
        let after = replaced(&before, &sid, &mine);
        assert_eq!(
            entries(&after, &sid),
            [
                (1, 0x40, 0, true),
                (1, 0x2, 0, false),
                (0, 0x20, 9, true),
                (0, 0x1, 3, false),
            ]
        );
        let again = replaced(&after, &sid, &mine);
        assert_eq!(entries(&again, &sid), entries(&after, &sid));
        let back = replaced(&again, &sid, &[]);
        assert_eq!(entries(&back, &sid), entries(&before, &sid));
    }

    #[test]
    fn a_directory_remembers_and_forgets() {
        let kept = tempfile::tempdir().unwrap();
        let place = wide(kept.path()).unwrap();
        let sid = Sid::invented(1);
        let count = || {
            let list = read(&place).unwrap();
            let none = Sid::invented(9);
            // SAFETY: the list is whole as the system gave it.
            let copy = unsafe { super::replaced(list.acl, &none, &[]) }.unwrap();
            let mine = entries(&copy, &sid).into_iter().filter(|entry| entry.3);
            mine.count()
        };
        assert_eq!(count(), 0);
        let ace = Ace {
            denies: false,
            mask: 0x1,
            flags: 0,
        };
        rewrite(kept.path(), &sid, &[ace]).unwrap();
        assert_eq!(count(), 1);
        rewrite(kept.path(), &sid, &[]).unwrap();
        assert_eq!(count(), 0);
    }
}
