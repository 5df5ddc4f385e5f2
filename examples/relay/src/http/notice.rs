//! A page that says one thing, without a script.

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;

const PAGE: &str = include_str!("../console/notice.html");

/// Says `text` under `title`, both of them as text.
pub(super) fn notice(status: StatusCode, title: &str, text: &str) -> Response {
    let page = PAGE
        .replace("{title}", &escape(title))
        .replace("{text}", &escape(text));
    (status, [(CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    #[test]
    fn markup_in_a_notice_is_text() {
        let shown = super::escape("<script>'\"&</script>");
        assert_eq!(shown, "&lt;script&gt;&#39;&quot;&amp;&lt;/script&gt;");
    }
}
