//! What Windows has to be asked for, where that can be tried: access lists and
//! jobs. The rest is in [`crate::supervise`]'s own tests.

use super::acl::{Change, Edit};
use super::sys::acl::{count, rewrite};
use super::sys::container::Sid;

#[test]
fn entries_are_added_and_taken_back() {
    let kept = tempfile::tempdir().unwrap();
    let place = kept.path().join("place");
    std::fs::create_dir(&place).unwrap();
    std::fs::write(place.join("file"), "content").unwrap();
    let sid = Sid::invented();
    let edit = Edit {
        path: place.clone(),
        directory: true,
        change: Change::Open {
            write: true,
            load: false,
        },
    };
    assert_eq!(count(&place, &sid).unwrap(), 0);
    rewrite(&place, &sid, &edit.aces()).unwrap();
    let added = count(&place, &sid).unwrap();
    rewrite(&place, &sid, &edit.aces()).unwrap();
    assert_eq!(count(&place, &sid).unwrap(), added, "twice is as once");
    assert!(added > 0, "nothing was added");
    rewrite(&place, &sid, &[]).unwrap();
    assert_eq!(count(&place, &sid).unwrap(), 0);
    assert_eq!(
        std::fs::read_to_string(place.join("file")).unwrap(),
        "content"
    );
}
