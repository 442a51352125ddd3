//! One member.

use crate::support::Server;

#[test]
fn smoke() {
    let server = Server::alone(&[]);
    let client = server.client();
    client.put("a", "b").unwrap();
    assert_eq!(client.get("a").unwrap().unwrap(), "b");
}
