import java.io.File;
import java.util.List;
import org.openapitools.client.ApiClient;
import org.openapitools.client.api.SegmentationApi;
import org.openapitools.client.model.SegmentAnswer;

class Call {
    public static void main(String[] words) throws Exception {
        ApiClient client = new ApiClient();
        client.updateBaseUri(words[0]);
        // The generated code takes no null for a list of boxes.
        var request = SegmentationApi.APISegmentRequest.newBuilder()
            .image(new File(words[1])).bbox(List.of()).build();
        SegmentAnswer answer = new SegmentationApi(client).segment(request);
        System.out.println(answer.getModel().getName() + " " + answer.getMasks().get(0).getAreaPx());
    }
}
