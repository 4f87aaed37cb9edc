use super::*;

const EVENTS: &str = r#"
{"event":"handshake","client":"192.0.2.7:4","server":"192.0.2.1:80","outcome":"accepted"}
{"event":"frame","client":"192.0.2.7:4","server":"192.0.2.1:80","dir":"client_to_server","index":1,"opcode":"text","fin":true,"rsv":0,"masked":true,"mask":"01020304","len":2,"payload":"hi"}
{"event":"message","client":"192.0.2.7:4","server":"192.0.2.1:80","dir":"client_to_server","type":"text","len":2,"frames":1,"compressed":false}
{"event":"frame","client":"192.0.2.7:4","server":"192.0.2.1:80","dir":"server_to_client","index":1,"opcode":"close","fin":true,"rsv":0,"masked":false,"len":5,"payload_hex":"03e8627965","code":1000,"reason":"bye"}
"#;

const PDML: &str = r#"
<packet>
  <proto name="ip"><field name="ip.src" show="192.0.2.7"/>
    <field name="ip.src" size="4" show="192.0.2.7" value="c0000207"/>
    <field name="ip.dst" size="4" show="192.0.2.1" value="c0000201"/>
  </proto>
  <proto name="tcp" size="20">
    <field name="tcp.srcport" size="2" show="4" value="0004"/>
    <field name="tcp.dstport" size="2" show="80" value="0050"/>
  </proto>
  <proto name="websocket" showname="WebSocket" size="6" pos="66">
    <field name="websocket.fin" show="1" value="1"/>
    <field name="websocket.rsv" show="0x00" value="0"/>
    <field name="websocket.opcode" show="1" value="1"/>
    <field name="websocket.mask" show="True" value="1"/>
    <field name="websocket.payload_length" show="2" value="2"/>
    <field name="websocket.masking_key" show="01:02:03:04" value="01020304"/>
    <field name="websocket.payload.text" showname="Text: &quot;" show="h
i" value="6869"/>
  </proto>
</packet>
<packet>
  <proto name="tcp" size="20">
    <field name="ip.src" size="4" show="192.0.2.1" value="c0000201"/>
    <field name="ip.dst" size="4" show="192.0.2.7" value="c0000207"/>
    <field name="tcp.srcport" size="2" show="80" value="0050"/>
    <field name="tcp.dstport" size="2" show="4" value="0004"/>
  </proto>
  <proto name="websocket" showname="WebSocket" size="6" pos="66">
    <field name="websocket.fin" show="1" value="1"/>
    <field name="websocket.opcode" show="8" value="8"/>
    <field name="websocket.mask" show="0" value="0"/>
    <field name="websocket.payload_length" show="5" value="5"/>
    <field name="websocket.payload.close.status_code" show="1001" value="03e9"/>
    <field name="websocket.payload.close.reason" show="bye" value="627965"/>
  </proto>
</packet>
"#;

#[test]
fn a_difference_is_found_and_named() {
    let ours = wstap::events(EVENTS.trim()).unwrap();
    let theirs = tshark::pdml(PDML, &ours).unwrap();
    let verdict = judged(&ours, &theirs, "tshark");
    assert_eq!((verdict.connections, verdict.frames), (1, 2));
    assert_eq!((verdict.unexplained, verdict.explained.len()), (1, 0));
    assert_eq!(
        verdict.shown,
        ["192.0.2.7:4 -> 192.0.2.1:80 server_to_client frame 1 code: wstap `1000`, tshark `1001`"]
    );
    // Two numbers of frames; seven fields of the first, five of the second.
    assert_eq!(verdict.agreements, 14);
}

#[test]
fn suricata_tells_direction_by_the_mask() {
    let ours = wstap::events(EVENTS.trim()).unwrap();
    let eve = r#"{"event_type":"websocket","src_ip":"192.0.2.7","src_port":4,"dest_ip":"192.0.2.1","dest_port":80,"websocket":{"fin":true,"mask":16909060,"opcode":"text"}}
{"event_type":"flow"}
{"event_type":"websocket","src_ip":"192.0.2.7","src_port":4,"dest_ip":"192.0.2.1","dest_port":80,"websocket":{"fin":true,"opcode":"connection_close"}}"#;
    let theirs = suricata::events(eve, &ours).unwrap();
    let verdict = judged(&ours, &theirs, "suricata");
    assert_eq!((verdict.unexplained, verdict.agreements), (0, 9));
}

#[test]
fn frames_before_which_no_handshake_was_seen_are_not_held_against_a_judge() {
    let events = EVENTS.replace("accepted", "midstream");
    let ours = wstap::events(events.trim()).unwrap();
    let verdict = judged(&ours, &Dissection::new(), "tshark");
    assert_eq!(verdict.unexplained, 0);
    assert_eq!(verdict.explained.values().sum::<u64>(), 2);
    let ours = wstap::events(EVENTS.trim()).unwrap();
    assert_eq!(judged(&ours, &Dissection::new(), "tshark").unexplained, 2);
}
