import createClient from "openapi-fetch";
import type { paths } from "./api.js";

export async function call(baseUrl: string, xray: Blob): Promise<void> {
  const client = createClient<paths>({ baseUrl });
  const form = new FormData();
  form.append("image", xray, "xray.png");
  const { data, error } = await client.POST("/segment", {
    body: { image: "" }, // a file, which TypeScript has no word for
    bodySerializer: () => form,
    headers: { Accept: "application/json" },
  });
  if (error) throw new Error(`${error.code}: ${error.detail}`);
  if (typeof data === "string") throw new Error("a picture, where JSON was asked for");
  const mask = data.masks[0];
  if (mask === undefined) throw new Error("no mask");
  console.log(data.model.name, mask.area_px);
}
