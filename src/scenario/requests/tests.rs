//! What is written is read again, in the order of the intended times.

use std::io::Cursor;

use super::format::{Reader, write_header, write_line};
use super::*;
use crate::scenario::load::{Class, Record};
use crate::scenario::spec::StreamKind;

const ALL: Wanted = Wanted {
    from_ms: 0.0,
    to_ms: f64::INFINITY,
    late_ms: 50.0,
};

fn record(stream: StreamKind, intended_ms: f64) -> Record {
    Record {
        stream,
        intended_ms,
        sent_ms: intended_ms + 0.25,
        connected_ms: None,
        first_byte_ms: Some(intended_ms + 4.5),
        end_ms: intended_ms + 5.125,
        connection: Some(7),
        status: Some(200),
        version: Some("v1".to_owned()),
        endpoint: None,
        class: Class::Ok,
    }
}

#[test]
fn lines_are_as_the_contract_says() {
    let mut out = Vec::new();
    write_header(&mut out);
    write_line(&mut out, "web", &record(StreamKind::New, 1000.0));
    let odd = Record {
        endpoint: Some("a,\"b\"".to_owned()),
        version: None,
        class: Class::ReadTimeout,
        status: None,
        ..record(StreamKind::Reused, 1040.0)
    };
    write_line(&mut out, "web", &odd);
    let text = String::from_utf8(out.clone()).unwrap();
    assert_eq!(
        text,
        "load,stream,intended_ms,sent_ms,connected_ms,first_byte_ms,end_ms,class,status,version,connection,endpoint\r\n\
         web,new,1000.000,1000.250,,1004.500,1005.125,ok,200,v1,7,\r\n\
         web,reused,1040.000,1040.250,,1044.500,1045.125,read_timeout,,,7,\"a,\"\"b\"\"\"\r\n"
    );
    let mut reader = Reader::new(Cursor::new(out)).unwrap().unwrap();
    let first = reader.next_row().unwrap().unwrap();
    assert_eq!(
        (first.intended_us, first.connected_us, first.class),
        (1_000_000, None, "ok")
    );
    assert_eq!(reader.next_row().unwrap().unwrap().endpoint, "a,\"b\"");
    assert_eq!(reader.next_row().unwrap(), None);
}

#[test]
fn columns_may_stand_in_another_order_and_must_be_there() {
    let text = "class,load,stream,intended_ms,sent_ms,connected_ms,first_byte_ms,end_ms,status,version,connection,endpoint\nok,web,new,1,1,,,2,200,,,\n";
    let read = Requests::read_text(Cursor::new(text), &|_| ALL).unwrap();
    assert!(read.loads["web"]["new"].samples[0].good());
    let missing = Requests::read_text(Cursor::new("load,stream\n"), &|_| ALL).unwrap_err();
    assert!(missing.to_string().contains("intended_ms"), "{missing}");
    let wrong = text.replace(",1,1,", ",one,1,");
    let wrong = Requests::read_text(Cursor::new(wrong), &|_| ALL).unwrap_err();
    assert_eq!(wrong.to_string(), "requests, line 2: `one` is not a time");
    assert!(
        Requests::read_text(Cursor::new(""), &|_| ALL)
            .unwrap()
            .loads
            .is_empty()
    );
}

#[test]
fn samples_hold_what_the_judge_asks_for() {
    let mut out = Vec::new();
    write_header(&mut out);
    // Not in the order of their intended times, as a file of another writer may be.
    let late = Record {
        sent_ms: 1180.0,
        class: Class::Refused,
        ..record(StreamKind::New, 1100.0)
    };
    for record in [
        late,
        record(StreamKind::New, 1000.0),
        record(StreamKind::New, 900.0),
    ] {
        write_line(&mut out, "web", &record);
    }
    let wanted = |_: &str| Wanted {
        from_ms: 950.0,
        ..ALL
    };
    let read = Requests::read_text(Cursor::new(out), &wanted).unwrap();
    let stream = &read.loads["web"]["new"];
    let seen: Vec<(f64, bool, bool, &str)> = stream
        .samples
        .iter()
        .map(|s| (s.intended_ms(), s.good(), s.late(), read.class(s)))
        .collect();
    assert_eq!(
        seen,
        [
            (1000.0, true, false, "ok"),
            (1100.0, false, true, "refused")
        ]
    );
    assert_eq!((stream.number(1), stream.failures.len()), (3, 1));
    assert_eq!(read.version(&stream.samples[0]), Some("v1"));
    assert_eq!(SAMPLE_BYTES, 13);
}

use super::samples::SAMPLE_BYTES;

#[tokio::test]
async fn requests_are_written_in_order_however_they_end() {
    let file = tempfile::tempfile().unwrap();
    let sources = vec![
        ("web".to_owned(), StreamKind::New),
        ("web".to_owned(), StreamKind::Reused),
    ];
    let log = RequestLog::start(file, sources).unwrap();
    let sink = log.sink("web");
    let new = sink.stream(StreamKind::New).unwrap();
    let reused = sink.stream(StreamKind::Reused).unwrap();
    for number in [2_u32, 0, 1] {
        let at = f64::from(number) * 10.0;
        new.keep(u64::from(number), record(StreamKind::New, at))
            .await;
    }
    new.end().await;
    // One is missing for ever, as when a run is broken off.
    for number in [3_u32, 0, 1] {
        let at = f64::from(number) * 10.0 + 5.0;
        reused
            .keep(u64::from(number), record(StreamKind::Reused, at))
            .await;
    }
    drop((sink, new, reused));
    let mut file = log.finish().await.unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(file), &mut text).unwrap();
    let intended: Vec<&str> = text
        .lines()
        .skip(1)
        .map(|line| line.split(',').nth(2).unwrap())
        .collect();
    assert_eq!(
        intended,
        ["0.000", "5.000", "10.000", "15.000", "20.000", "35.000"]
    );
}
