//! Asks macOS: the I/O registry, and `sysinfo` for the processor.

use std::ffi::{CString, c_char};
use std::path::Path;

use objc2_core_foundation::{
    CFBoolean, CFData, CFDictionary, CFRetained, CFString, CFType, kCFAllocatorDefault,
};
use objc2_io_kit::{
    IOBSDNameMatching, IOIteratorNext, IOObjectRelease, IORegistryEntryCreateCFProperty,
    IORegistryEntrySearchCFProperty, IOServiceGetMatchingService, IOServiceGetMatchingServices,
    IOServiceMatching, io_object_t, kIOMainPortDefault, kIORegistryIterateParents,
    kIORegistryIterateRecursively, kIOServicePlane,
};
use sysinfo::{CpuRefreshKind, System};

use crate::native::{Answer, Answers};

/// The properties of the computer's own entry.
const PLATFORM: [&str; 4] = [
    "IOPlatformUUID",
    "IOPlatformSerialNumber",
    "manufacturer",
    "model",
];

/// The volume that people's data is on; `/` is a sealed snapshot that every
/// update replaces.
const DATA: &str = "/System/Volumes/Data";

/// Asks everything; the volume is that of `data`.
pub(crate) fn ask(data: &Path) -> Answers {
    let mut answers = Answers::default();
    if let Some(platform) = Entry::of_class("IOPlatformExpertDevice") {
        for name in PLATFORM {
            answers.insert(
                format!("IOPlatformExpertDevice/{name}"),
                platform.property(name).and_then(answer),
            );
        }
    }
    for interface in Entry::all_of_class("IOEthernetInterface") {
        let Some(Answer::Text(name)) = interface.property("BSD Name").and_then(answer) else {
            continue;
        };
        let name = format!("IOEthernetInterface/{name}");
        answers.insert(
            format!("{name}/IOBuiltin"),
            interface.property("IOBuiltin").and_then(answer),
        );
        // The controller above the interface knows the burnt-in address.
        answers.insert(
            format!("{name}/IOMACAddress"),
            interface.property_above("IOMACAddress").and_then(answer),
        );
    }
    if let Some(volume) = device_of(data).and_then(|name| Entry::of_device(&name)) {
        answers.insert("IOMedia/UUID", volume.property("UUID").and_then(answer));
        for (dictionary, name) in [
            ("Device Characteristics", "Serial Number"),
            ("Protocol Characteristics", "Physical Interconnect Location"),
        ] {
            let found = volume.property_above(dictionary);
            answers.insert(
                format!("IOMedia/{dictionary}/{name}"),
                found.and_then(|found| answer(member(found, name)?)),
            );
        }
    }
    if let Ok(mut system) = System::new() {
        system.refresh_cpu_list(CpuRefreshKind::nothing());
        if let Some(first) = system.cpus().first() {
            let text = |text: &str| Some(Answer::Text(text.to_owned()));
            answers.insert("sysctl/machdep.cpu.vendor", text(first.vendor_id()));
            answers.insert("sysctl/machdep.cpu.brand_string", text(first.brand()));
        }
    }
    answers
}

/// The name of the device, such as `disk3s5`, that holds `path`.
fn device_of(path: &Path) -> Option<String> {
    let path = match path == Path::new("/") && Path::new(DATA).exists() {
        true => Path::new(DATA),
        false => path,
    };
    let status = rustix::fs::statfs(path).ok()?;
    let bytes: Vec<u8> = status
        .f_mntfromname
        .iter()
        .map(|byte| byte.cast_unsigned())
        .take_while(|byte| *byte != 0)
        .collect();
    let device = String::from_utf8(bytes).ok()?;
    device.strip_prefix("/dev/").map(str::to_owned)
}

/// An entry of the I/O registry, released when dropped.
struct Entry(io_object_t);

impl Entry {
    /// Takes ownership of a reference that a call has given; 0 is none.
    fn own(object: io_object_t) -> Option<Self> {
        (object != 0).then_some(Self(object))
    }

    /// The first service of a class.
    fn of_class(class: &str) -> Option<Self> {
        let matching = matching(class)?;
        // SAFETY: the default port is a constant of the framework, and the
        // dictionary is whole; the call takes its reference over.
        let found = unsafe { IOServiceGetMatchingService(kIOMainPortDefault, Some(matching)) };
        Self::own(found)
    }

    /// The media whose device has this name.
    fn of_device(name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;
        // SAFETY: the name ends with a zero and outlives the call, which copies
        // it.
        let matching = unsafe { IOBSDNameMatching(kIOMainPortDefault, 0, name.as_ptr()) }?;
        let matching = CFRetained::<CFDictionary>::from(&matching);
        // SAFETY: as in `of_class`.
        let found = unsafe { IOServiceGetMatchingService(kIOMainPortDefault, Some(matching)) };
        Self::own(found)
    }

    /// All services of a class.
    fn all_of_class(class: &str) -> Vec<Self> {
        let mut iterator = 0;
        // SAFETY: as in `of_class`; the iterator is written to a variable that
        // outlives the call.
        let status = unsafe {
            IOServiceGetMatchingServices(kIOMainPortDefault, matching(class), &raw mut iterator)
        };
        let Some(iterator) = Self::own(iterator).filter(|_| status == 0) else {
            return Vec::new();
        };
        std::iter::from_fn(|| Self::own(IOIteratorNext(iterator.0))).collect()
    }

    /// A property of this entry.
    fn property(&self, name: &str) -> Option<CFRetained<CFType>> {
        let name = CFString::from_str(name);
        // SAFETY: the entry is alive as long as `self`, and the default
        // allocator is a constant of the framework.
        unsafe { IORegistryEntryCreateCFProperty(self.0, Some(&name), kCFAllocatorDefault, 0) }
    }

    /// A property of this entry or of the nearest one above it that has it.
    fn property_above(&self, name: &str) -> Option<CFRetained<CFType>> {
        let name = CFString::from_str(name);
        let plane = kIOServicePlane.as_ptr().cast_mut().cast::<[c_char; 128]>();
        // SAFETY: as in `property`; the plane's name is a constant that ends
        // with a zero, is read up to there, and is not written to.
        unsafe {
            IORegistryEntrySearchCFProperty(
                self.0,
                plane.cast(),
                Some(&name),
                kCFAllocatorDefault,
                kIORegistryIterateRecursively | kIORegistryIterateParents,
            )
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        IOObjectRelease(self.0);
    }
}

fn matching(class: &str) -> Option<CFRetained<CFDictionary>> {
    let class = CString::new(class).ok()?;
    // SAFETY: the name ends with a zero and outlives the call, which copies it.
    let matching = unsafe { IOServiceMatching(class.as_ptr()) }?;
    Some(CFRetained::<CFDictionary>::from(&matching))
}

/// A member of a property that is a dictionary.
fn member(dictionary: CFRetained<CFType>, name: &str) -> Option<CFRetained<CFType>> {
    let dictionary = dictionary.downcast::<CFDictionary>().ok()?;
    // SAFETY: the I/O registry's dictionaries come from `OSDictionary`, whose
    // keys are strings, and every value is a Core Foundation object.
    let dictionary = unsafe { dictionary.cast_unchecked::<CFString, CFType>() };
    dictionary.get(&CFString::from_str(name))
}

fn answer(property: CFRetained<CFType>) -> Option<Answer> {
    let property = match property.downcast::<CFString>() {
        Ok(text) => return Some(Answer::Text(text.to_string())),
        Err(other) => other,
    };
    let property = match property.downcast::<CFData>() {
        Ok(data) => return Some(Answer::Bytes(data.to_vec())),
        Err(other) => other,
    };
    let flag = property.downcast::<CFBoolean>().ok()?;
    Some(Answer::Flag(flag.as_bool()))
}
