//! Asks Windows: the registry, the firmware's tables, the volume, the drive and
//! the network interfaces. None of it needs more rights than a guest has.

use std::ffi::c_void;
use std::os::windows::ffi::OsStrExt;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
use std::path::Path;
use std::ptr;

use windows_sys::Win32::Foundation::INVALID_HANDLE_VALUE;
use windows_sys::Win32::NetworkManagement::IpHelper::{
    FreeMibTable, GetIfTable2, MIB_IF_ROW2, MIB_IF_TABLE2,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateFileW, FILE_SHARE_READ, FILE_SHARE_WRITE, GetVolumeInformationW,
    GetVolumeNameForVolumeMountPointW, GetVolumePathNameW, OPEN_EXISTING,
};
use windows_sys::Win32::System::IO::DeviceIoControl;
use windows_sys::Win32::System::Ioctl::{
    IOCTL_STORAGE_QUERY_PROPERTY, PropertyStandardQuery, STORAGE_PROPERTY_QUERY,
    StorageDeviceProperty,
};
use windows_sys::Win32::System::Registry::{
    HKEY_LOCAL_MACHINE, RRF_RT_REG_DWORD, RRF_RT_REG_SZ, RRF_SUBKEY_WOW6464KEY, RegGetValueW,
};
use windows_sys::Win32::System::SystemInformation::{GetSystemFirmwareTable, RSMB};
use windows_sys::core::GUID;

use crate::native::windows::{CONNECTIONS, DEVICES, MACHINE_GUID, PROCESSOR};
use crate::native::{Answer, Answers};

/// Asks everything; the volume is that of `data`.
pub(crate) fn ask(data: &Path) -> Answers {
    let mut answers = Answers::default();
    let mut text = |name: &str| {
        let found = registry_text(name);
        answers.insert(name, found.clone().map(Answer::Text));
        found
    };
    text(MACHINE_GUID);
    for name in ["Identifier", "VendorIdentifier", "ProcessorNameString"] {
        text(&format!("{PROCESSOR}/{name}"));
    }
    let mut numbers = Vec::new();
    let interfaces = interfaces();
    for interface in &interfaces {
        let guid = guid(&interface.InterfaceGuid);
        let device = text(&format!("{CONNECTIONS}/{guid}/Connection/PnPInstanceId"));
        if let Some(device) = device {
            let device = device.replace('\\', "/");
            numbers.push(format!("{DEVICES}/{device}/Capabilities"));
        }
    }
    for name in numbers {
        let number = registry_number(&name);
        answers.insert(name, number.map(Answer::Number));
    }
    for interface in &interfaces {
        let name = format!("GetIfTable2/{}", guid(&interface.InterfaceGuid));
        let length = interface.PhysicalAddressLength as usize;
        let address = interface.PermanentPhysicalAddress.get(..length);
        // The first bit of the flags is HardwareInterface.
        let hardware = interface.InterfaceAndOperStatusFlags._bitfield & 1 == 1;
        for (member, answer) in [
            ("Type", Some(Answer::Number(interface.Type.into()))),
            ("HardwareInterface", Some(Answer::Flag(hardware))),
            (
                "PermanentPhysicalAddress",
                address.map(|address| Answer::Bytes(address.to_vec())),
            ),
        ] {
            answers.insert(format!("{name}/{member}"), answer);
        }
    }
    answers.insert(
        "GetSystemFirmwareTable/RSMB",
        firmware_tables().map(Answer::Bytes),
    );
    if let Some(root) = volume_path(data) {
        answers.insert(
            "GetVolumeInformation/SerialNumber",
            volume_serial(&root).map(|serial| Answer::Number(serial.into())),
        );
        answers.insert(
            "IOCTL_STORAGE_QUERY_PROPERTY/StorageDeviceProperty",
            device_descriptor(&root).map(Answer::Bytes),
        );
    }
    answers
}

/// Text as Windows takes it, with the zero that ends it.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// The longest path that Windows gives back, in its characters.
const LONGEST: usize = 32 * 1024;

/// Splits `HKLM/a/b/c` into the key `a\b` and the value `c`.
fn registry_path(name: &str) -> Option<(Vec<u16>, Vec<u16>)> {
    let (key, value) = name.strip_prefix("HKLM/")?.rsplit_once('/')?;
    Some((wide(&key.replace('/', "\\")), wide(value)))
}

fn registry_text(name: &str) -> Option<String> {
    let (key, value) = registry_path(name)?;
    let mut text = [0_u16; 512];
    let mut size = u32::try_from(size_of_val(&text)).ok()?;
    // SAFETY: both names end with a zero; the buffer is `size` bytes long and
    // outlives the call, as does `size`.
    let status = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            value.as_ptr(),
            // A 32-bit program would be shown another view of the registry.
            RRF_RT_REG_SZ | RRF_SUBKEY_WOW6464KEY,
            ptr::null_mut(),
            text.as_mut_ptr().cast(),
            &raw mut size,
        )
    };
    if status != 0 {
        return None;
    }
    let end = text.iter().position(|unit| *unit == 0)?;
    String::from_utf16(&text[..end]).ok()
}

fn registry_number(name: &str) -> Option<u64> {
    let (key, value) = registry_path(name)?;
    let mut number = 0_u32;
    let mut size = 4;
    // SAFETY: both names end with a zero; the buffer is the four bytes that a
    // REG_DWORD has, and it and `size` outlive the call.
    let status = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            value.as_ptr(),
            RRF_RT_REG_DWORD | RRF_SUBKEY_WOW6464KEY,
            ptr::null_mut(),
            (&raw mut number).cast(),
            &raw mut size,
        )
    };
    (status == 0).then_some(number.into())
}

fn firmware_tables() -> Option<Vec<u8>> {
    // SAFETY: a buffer of no bytes may be null; the call then says how many it
    // would need.
    let size = unsafe { GetSystemFirmwareTable(RSMB, 0, ptr::null_mut(), 0) };
    let mut tables = vec![0; size as usize];
    // SAFETY: the buffer is `size` bytes long and outlives the call.
    let written = unsafe { GetSystemFirmwareTable(RSMB, 0, tables.as_mut_ptr(), size) };
    (written > 0 && written <= size).then(|| {
        tables.truncate(written as usize);
        tables
    })
}

/// The root of the volume that holds `path`, such as `C:\`, with the zero that
/// ends it.
fn volume_path(path: &Path) -> Option<Vec<u16>> {
    let path: Vec<u16> = path.as_os_str().encode_wide().chain([0]).collect();
    let mut root = vec![0; LONGEST];
    // SAFETY: the path ends with a zero; the buffer has room for as many
    // characters as the call is told, and outlives it.
    let found = unsafe { GetVolumePathNameW(path.as_ptr(), root.as_mut_ptr(), LONGEST as u32) };
    (found != 0).then_some(root)
}

fn volume_serial(root: &[u16]) -> Option<u32> {
    let mut serial = 0;
    // SAFETY: the root ends with a zero, since `volume_path` made it; `serial`
    // outlives the call; whatever is null is not wanted, and then its length is
    // not looked at.
    let found = unsafe {
        GetVolumeInformationW(
            root.as_ptr(),
            ptr::null_mut(),
            0,
            &raw mut serial,
            ptr::null_mut(),
            ptr::null_mut(),
            ptr::null_mut(),
            0,
        )
    };
    (found != 0).then_some(serial)
}

/// What the storage driver says of the device under a volume.
fn device_descriptor(root: &[u16]) -> Option<Vec<u8>> {
    // `\\?\Volume{…}\` is 49 characters and the zero.
    let mut volume = [0_u16; 64];
    // SAFETY: the root ends with a zero; the buffer has room for as many
    // characters as the call is told, and outlives it.
    let found = unsafe {
        GetVolumeNameForVolumeMountPointW(root.as_ptr(), volume.as_mut_ptr(), volume.len() as u32)
    };
    let end = volume.iter().position(|unit| *unit == 0)?;
    // Without the last backslash it names the device and not its root folder.
    if found == 0 || volume[..end].last() != Some(&u16::from(b'\\')) {
        return None;
    }
    volume[end - 1] = 0;
    // SAFETY: the name ends with a zero. No access is asked for, so everybody
    // may open it, and only to ask about it.
    let handle = unsafe {
        CreateFileW(
            volume.as_ptr(),
            0,
            FILE_SHARE_READ | FILE_SHARE_WRITE,
            ptr::null(),
            OPEN_EXISTING,
            0,
            ptr::null_mut(),
        )
    };
    if handle == INVALID_HANDLE_VALUE {
        return None;
    }
    // SAFETY: the handle was just opened and nobody else has it.
    let device = unsafe { OwnedHandle::from_raw_handle(handle) };
    let query = STORAGE_PROPERTY_QUERY {
        PropertyId: StorageDeviceProperty,
        QueryType: PropertyStandardQuery,
        AdditionalParameters: [0],
    };
    let mut descriptor = vec![0_u8; 4096];
    let mut written = 0;
    // SAFETY: the handle is open; the query is whole, and its size is told; the
    // buffer is as long as the call is told; all of them outlive it, since the
    // call is not overlapped.
    let answered = unsafe {
        DeviceIoControl(
            device.as_raw_handle(),
            IOCTL_STORAGE_QUERY_PROPERTY,
            (&raw const query).cast::<c_void>(),
            size_of_val(&query) as u32,
            descriptor.as_mut_ptr().cast(),
            descriptor.len() as u32,
            &raw mut written,
            ptr::null_mut(),
        )
    };
    (answered != 0).then(|| {
        descriptor.truncate(written as usize);
        descriptor
    })
}

/// All network interfaces, virtual ones too.
fn interfaces() -> Vec<MIB_IF_ROW2> {
    let mut table: *mut MIB_IF_TABLE2 = ptr::null_mut();
    // SAFETY: the pointer to the table is written to a variable that outlives
    // the call.
    let status = unsafe { GetIfTable2(&raw mut table) };
    if status != 0 || table.is_null() {
        return Vec::new();
    }
    // SAFETY: the call succeeded, so `table` points to a table with as many
    // rows as it says, and the rows begin at the field `Table`. They are copied
    // before the table is freed.
    let rows = unsafe {
        let count = (*table).NumEntries as usize;
        let first = (&raw const (*table).Table).cast::<MIB_IF_ROW2>();
        std::slice::from_raw_parts(first, count).to_vec()
    };
    // SAFETY: the table is the one that the call gave, and is freed once.
    unsafe { FreeMibTable(table.cast()) };
    rows
}

/// A GUID as the registry writes it.
fn guid(guid: &GUID) -> String {
    let [a, b, c, d, e, f, g, h] = guid.data4;
    format!(
        "{{{:08X}-{:04X}-{:04X}-{a:02X}{b:02X}-{c:02X}{d:02X}{e:02X}{f:02X}{g:02X}{h:02X}}}",
        guid.data1, guid.data2, guid.data3
    )
}
