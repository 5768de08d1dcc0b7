//! A native connection's input: the hello, then requests in any order.

use panch_wire::client::{
    self, Answer, Commit, HELLO_SIZE, Hello, HelloReply, Operation, ReadLevel, RefusalCode, ReplyView, Terms,
};
use panch_wire::command::{CommandError, Reply};

use super::connection::{Connection, Speech};
use super::output::Output;
use super::{Counter, Denial, Past, Stop, submitted_level};
use crate::view::NodeView;

/// What a request may have beyond its value: key and header.
const REQUEST_OVERHEAD: usize = 128 << 10;

/// Consumes requests from the front of `input`. Returns how many bytes, and why it stopped.
pub(crate) fn consume(connection: &mut Connection, input: &[u8], counter: &mut Counter<'_>) -> (usize, Stop) {
    (connection.waits_until, connection.needed) = (None, 0);
    let Speech::Native(speech) = &mut connection.speech else { unreachable!("the caller looked") };
    let mut at = 0;
    let terms = match speech.terms {
        Some(terms) => terms,
        None => match greet(input, counter, connection.output.tail(0)) {
            Ok(Some(terms)) => {
                at = HELLO_SIZE;
                *speech.terms.insert(terms)
            }
            Ok(None) => return (0, Stop::NeedBytes),
            Err(stop) => return (input.len(), stop),
        },
    };
    loop {
        if connection.is_full(counter.room) {
            return (at, Stop::Stalled);
        }
        let Speech::Native(speech) = &mut connection.speech else { unreachable!("as above") };
        let (request, size) = match client::parse_request(&input[at..], &terms) {
            Ok(Some(request)) => request,
            Ok(None) => {
                connection.needed = client::request_size(&input[at..]);
                return (at, Stop::NeedBytes);
            }
            Err(_) => return (input.len(), Stop::Close(true)),
        };
        let number = request.number;
        let arrived = connection.arrivals.of(at + size).unwrap_or(counter.now);
        let tell = |answer: Answer<'_>, commit: Option<Commit>, output: &mut Output| {
            let size =
                if let Answer::Bytes(bytes) | Answer::Array(bytes) = &answer { bytes.len() } else { 0 };
            client::write_reply(&ReplyView { number, stages: None, commit, answer }, output.tail(size));
        };
        let answer = |answer: Answer<'_>, output: &mut Output| tell(answer, None, output);
        match request.operation {
            Operation::Ping => answer(Answer::Pong, &mut connection.output),
            Operation::Invalid(error) => answer(Answer::Error(error), &mut connection.output),
            Operation::Propose { group, frame } => {
                let address = connection.key.address(number, request.ask_commit);
                // The other nodes may take it: that it was not applied nobody knows.
                let taken = match counter.refusal(arrived) {
                    Some(_) => Err(Denial::For(CommandError::Unknown)),
                    None => counter.submit_batch(arrived, group, frame, terms.session, address.connection),
                };
                match taken {
                    // Only its home answers, each command under its own number.
                    Ok(sound) if sound.home == counter.view.node() => {
                        (0..sound.command_count).for_each(|_| speech.begin(number, 0));
                    }
                    Ok(_) => {}
                    Err(Denial::Busy) => {
                        connection.waits_until = Some(counter.deadline(arrived));
                        return (at, Stop::Stalled);
                    }
                    Err(Denial::For(error)) => answer(Answer::Error(error), &mut connection.output),
                }
            }
            Operation::Command(command) => {
                let group = counter.view.options.routing.group_of_command(&command);
                let Some(group) = group else {
                    answer(Answer::Error(CommandError::CrossSlot), &mut connection.output);
                    at += size;
                    continue;
                };
                if speech.outstanding == 0 {
                    connection.written = 0;
                }
                let past = Past {
                    written: connection.written,
                    likely: connection.likely_size,
                    outstanding: connection.outstanding(),
                };
                let reserved = counter.reserve(group, &command, past, connection.owed());
                let Speech::Native(speech) = &mut connection.speech else { unreachable!("as above") };
                let output = &mut connection.output;
                let level = match request.level {
                    ReadLevel::Default => counter.view.options.default_read_level,
                    named => named,
                };
                let stale = level == ReadLevel::Stale
                    && reserved.is_some()
                    && counter
                        .read_stale(group, &command, |reply: Reply<'_>, seen: Option<&Commit>| {
                            tell(reply.into(), seen.copied().filter(|_| request.ask_commit), output);
                        })
                        .is_some();
                if !stale {
                    let level = submitted_level(level);
                    let token = connection.key.address(number, request.ask_commit);
                    let taken = match (counter.refusal_of(arrived, group, &command), reserved) {
                        (Some(error), _) => Err(Denial::For(error)),
                        (None, None) => Err(Denial::Busy),
                        (None, Some(reserved)) => {
                            counter.submit(arrived, group, &command, level, token).map(|()| reserved)
                        }
                    };
                    match taken {
                        Ok(reserved) => {
                            speech.begin(number, reserved);
                            connection.written = past.written_with(&command);
                        }
                        Err(Denial::Busy) => {
                            connection.waits_until = Some(counter.deadline(arrived));
                            return (at, Stop::Stalled);
                        }
                        Err(Denial::For(error)) => answer(Answer::Error(error), &mut connection.output),
                    }
                }
            }
        }
        *counter.requests += 1;
        at += size;
    }
}

/// What a client is answered that is not let in, whatever it says.
pub(crate) fn refuse(code: RefusalCode, text: &str, view: &NodeView, out: &mut Vec<u8>) {
    HelloReply { refusal: Some(code), text, ..welcome(view) }.write(out);
}

fn welcome(view: &NodeView) -> HelloReply<'static> {
    HelloReply {
        version: client::VERSION,
        refusal: None,
        node: view.node(),
        group_count: view.options.group_count(),
        request_size_max: (view.options.replica.batch.value_size_max + REQUEST_OVERHEAD) as u32,
        text: "",
    }
}

/// Answers the hello. `None` if it is not all there.
fn greet(input: &[u8], counter: &Counter<'_>, out: &mut Vec<u8>) -> Result<Option<Terms>, Stop> {
    let hello = match Hello::parse(input) {
        Ok(Some(hello)) => hello,
        Ok(None) => return Ok(None),
        Err(_) => return Err(Stop::Close(true)),
    };
    let mut reply = welcome(counter.view);
    if hello.version != client::VERSION {
        reply.refusal = Some(RefusalCode::Version);
        reply.text = "this node speaks another version of the protocol: use a client of its version";
    } else if counter.is_closed {
        reply.refusal = Some(RefusalCode::NotReady);
        reply.text = "the node is stopping: try another one";
    } else if !counter.core.is_live() {
        reply.refusal = Some(RefusalCode::NotReady);
        reply.text = "the node is starting: try again";
    }
    reply.write(out);
    match reply.refusal {
        None => Ok(Some(Terms { session: hello.session, request_size_max: reply.request_size_max })),
        Some(_) => Err(Stop::Close(false)),
    }
}
