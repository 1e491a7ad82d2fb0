// Requests to the server that gave this page. The token in the address goes along as a header.

const token = new URLSearchParams(location.search).get("token") ?? "";
export const headers = { "X-Hook-Token": token };

/** An answer of the server that is not what was asked for, with its message and remedy. */
export class ServerError extends Error {
  constructor(status, answer) {
    super(answer.message ?? `The server answered ${status}.`);
    Object.assign(this, { status, remedy: answer.remedy ?? "", expected: answer.expected });
  }
}

/** Send a request with the token; options are those of fetch. */
export async function send(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  } catch {
    throw new ServerError(0, {
      message: "The server does not answer.",
      remedy: "Start 'hook explore' again: it goes on where it stopped, with all labels.",
    });
  }
  if (!response.ok) throw new ServerError(response.status, await response.json().catch(() => ({})));
  return response;
}

export const get = async (path) => (await send(path)).json();

export async function post(path, body, method = "POST") {
  const options = { method, body: JSON.stringify(body ?? {}) };
  return (await send(path, { ...options, headers: { "Content-Type": "application/json" } })).json();
}

const pictures = new Map(); // path -> address of the picture, the newest last

/** The address of a picture, which an <img> cannot ask for itself: it sends no token. */
export async function picture(path) {
  if (!pictures.has(path)) {
    pictures.set(path, send(path).then((response) => response.blob()).then(URL.createObjectURL));
    if (pictures.size > 500) {
      const [oldest, address] = pictures.entries().next().value;
      pictures.delete(oldest);
      address.then(URL.revokeObjectURL, () => {});
    }
  }
  return pictures.get(path);
}

/** Call `handle` with each event of the server. The browser connects again by itself. */
export function listen(handle, lost) {
  const events = new EventSource(`/api/events?token=${encodeURIComponent(token)}`);
  events.onmessage = (event) => handle(JSON.parse(event.data));
  events.onerror = () => lost(true);
  events.onopen = () => lost(false);
}
