//! A launch agent, launchd.plist(5).

use super::{MARK, Program};

/// By which launchd knows it.
pub(super) const LABEL: &str = "dev.katachi.agent";

/// The property list that runs `program`.
pub(super) fn plist(program: &Program) -> String {
    let words: String = program
        .argv
        .iter()
        .map(|word| format!("        <string>{}</string>\n", escaped(word)))
        .collect();
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- {MARK}; `katachi-agent service remove` deletes it. -->
<plist version="1.0">
<dict>
    <key>Label</key>
    <string>{LABEL}</string>
    <key>ProgramArguments</key>
    <array>
{words}    </array>
    <key>WorkingDirectory</key>
    <string>{directory}</string>
    <key>RunAtLoad</key>
    <true/>
    <key>KeepAlive</key>
    <dict>
        <key>SuccessfulExit</key>
        <false/>
    </dict>
    <key>ThrottleInterval</key>
    <integer>10</integer>
    <key>ProcessType</key>
    <string>Background</string>
    <key>Umask</key>
    <integer>63</integer>
    <key>HardResourceLimits</key>
    <dict>
        <key>Core</key>
        <integer>0</integer>
    </dict>
    <key>StandardErrorPath</key>
    <string>{log}</string>
</dict>
</plist>
"#,
        directory = escaped(&program.directory.display().to_string()),
        log = escaped(&program.log.display().to_string()),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
