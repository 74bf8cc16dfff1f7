// The service, as the other modules ask it. The token, if one is wanted, is kept until the page is closed.

const AGAIN_MS = 1000;
const BUSY = [429, 503], MOST_TRIES = 60;
let token = "";

export function useToken(given) {
  token = given;
}

export const headers = () => (token ? { authorization: `Bearer ${token}` } : {});

// The answer to a request; where the service is busy, it is asked again. Throws an Error with the problem's words and status.
export async function fetched(path, options = {}) {
  for (let tries = 1; ; tries++) {
    const answer = await fetch(path, { ...options, headers: { ...options.headers, ...headers() } });
    if (answer.ok) return answer;
    if (!BUSY.includes(answer.status) || tries === MOST_TRIES) throw await problem(answer.status, answer.text());
    await new Promise((resolve) => setTimeout(resolve, AGAIN_MS * Number(answer.headers.get("retry-after") || 1)));
  }
}

export async function ask(path, options) {
  return (await fetched(path, options)).json();
}

// The events of a stream, as {event, data}, until it ends or is stopped; by fetch, for an EventSource cannot send the token.
export async function* events(path, signal) {
  const reader = (await fetched(path, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const told = (rest + value).split("\n\n");
    rest = told.pop();
    for (const lines of told) {
      const of = Object.fromEntries(lines.split("\n").map((line) => line.split(/: ?(.*)/s)));
      if (of.data) yield { event: of.event, data: JSON.parse(of.data) };
    }
  }
}

// Send a file as the body, telling the share that has gone; fetch tells nothing of it.
export function upload(path, file, tell) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    for (const [name, value] of Object.entries({ "content-type": "application/octet-stream", ...headers() })) request.setRequestHeader(name, value);
    request.upload.onprogress = ({ loaded, total }) => tell(loaded / total);
    request.onload = () => (request.status < 300 ? resolve(JSON.parse(request.responseText)) : problem(request.status, request.responseText).then(reject));
    request.onerror = () => reject(new Error("the service did not take it to its end"));
    request.send(file);
  });
}

async function problem(status, text) {
  let detail = `the service answered ${status}`;
  try {
    detail = JSON.parse(await text).detail;
  } catch {
    // what stands between this page and the service answers in its own way
  }
  return Object.assign(new Error(detail), { status });
}
